package kube

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
	"multus/internal/testutil/eventually"
)

func nad(name, config string) *nadv1.NetworkAttachmentDefinition {
	return &nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name},
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: config},
	}
}

// follow returns a cache in the state of following a watch, with the given definitions.
func follow(tb testing.TB, client *Client, list ...any) (*Cache, *stream) {
	tb.Helper()
	c := NewCache(client, discard())
	s := &stream{Interface: watch.NewFake(), cache: c}
	c.stream = s
	if err := (store{c}).Replace(list, "1"); err != nil {
		tb.Fatal(err)
	}
	return c, s
}

// TestCacheLive checks that a live answer is not cached if the definition may have been deleted meanwhile. It
// would stay for ever.
func TestCacheLive(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// meanwhile happens between the request and its answer
		meanwhile func(c *Cache, s *stream)
		want      int
	}{
		{"the watch works", func(*Cache, *stream) {}, 1},
		{"the watch breaks", func(_ *Cache, s *stream) { s.Stop() }, 0},
		{"the definition is deleted", func(c *Cache, _ *stream) { _ = store{c}.Delete(nad("x", "old")) }, 0},
		{"the list is replaced", func(c *Cache, _ *stream) { _ = store{c}.Replace(nil, "2") }, 0},
		{"never synced", func(c *Cache, _ *stream) { c.synced = false }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var c *Cache
			var s *stream
			c, s = follow(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				tt.meanwhile(c, s)
				answer(200, "", `{"spec":{"config":"live"}}`)(w, r)
			}))
			def, err := c.Network(t.Context(), plan.Ref{Namespace: "n", Name: "x"})
			if err != nil || def.Config != "live" {
				t.Errorf("Network = %+v, %v", def, err)
			}
			if c.Len() != tt.want {
				t.Errorf("%d definitions kept, want %d", c.Len(), tt.want)
			}
		})
	}
}

// TestNewerEventWins checks that an event of the watch is not overwritten by the answer to an earlier request.
func TestNewerEventWins(t *testing.T) {
	t.Parallel()
	var c *Cache
	c, _ = follow(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = store{c}.Add(nad("x", "newer"))
		answer(200, "", `{"spec":{"config":"older"}}`)(w, r)
	}))
	x := plan.Ref{Namespace: "n", Name: "x"}
	if _, err := c.Network(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	if def, err := c.Network(t.Context(), x); err != nil || def.Config != "newer" {
		t.Errorf("Network = %+v, %v", def, err)
	}
}

// TestBrokenWatch checks that a cached definition is read live once, with a short limit, and not again for a while.
func TestBrokenWatch(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	c, s := follow(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answer(503, "", "starting")(w, r)
	}), nad("x", "held"))
	s.Stop()
	for range 3 {
		if def, err := c.Network(t.Context(), plan.Ref{Namespace: "n", Name: "x"}); err != nil || def.Config != "held" {
			t.Errorf("Network = %+v, %v", def, err)
		}
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// TestListAndWatch checks the requests when a cache starts, and after each way in which a watch ends. Only a position
// that is too old may cause a list, because lists are expensive for the API server and 5,000 nodes send them at the
// same time.
func TestListAndWatch(t *testing.T) {
	t.Parallel()
	const list, resume = "LIST rv=", "WATCH rv="
	hang := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	tests := []struct {
		name  string
		first http.HandlerFunc // answers the first watch; the second one works
		want  []string
	}{
		{"no answer", cut, []string{list + "0", resume + "7", resume + "7"}},
		{"a load balancer without servers", answer(503, "", "no server"), []string{list + "0", resume + "7", resume + "7"}},
		{
			"an API server that starts", answer(429, "", statusBody(429, "TooManyRequests", "")),
			[]string{list + "0", resume + "7", resume + "7"},
		},
		{
			"the token has expired", answer(401, "", statusBody(401, "Unauthorized", "")),
			[]string{list + "0", resume + "7", resume + "7"},
		},
		{
			"the position is too old", answer(410, "", statusBody(410, "Expired", "")),
			[]string{list + "0", resume + "7", list + "7", resume + "7"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var got []string
			watches := 0
			c := NewCache(serve(t, func(w http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				mu.Lock()
				what := list
				if q.Get("watch") != "" {
					what = resume
					watches++
				}
				got = append(got, what+q.Get("resourceVersion"))
				n := watches
				mu.Unlock()
				switch {
				case q.Get("sendInitialEvents") != "" || q.Get("limit") != "" && q.Get("resourceVersion") != "0":
					t.Errorf("a stream of the list, or a page out of etcd: %s", r.URL)
				case what == list:
					answer(200, "", `{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"namespace":"n","name":"x"},"spec":{"config":"c"}}]}`)(w, r)
				case n == 1:
					tt.first(w, r)
				default:
					hang(w, r)
				}
			}), discard())
			stop := start(t, c)
			eventually.Within(t, waitTimeout, "the second watch", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return isFollowing(c) && watches == 2
			})
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(got, tt.want) {
				t.Errorf("requests %q, want %q", got, tt.want)
			}
			stop()
			if c.following() {
				t.Error("healthy after Run has returned")
			}
		})
	}
}

// TestReadList checks that only the needed parts of a list are kept. A list that was cut off is an error, and so is the
// answer of a proxy with code 200, which would remove all definitions if it counted as an empty list.
func TestReadList(t *testing.T) {
	t.Parallel()
	const whole = `{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"7","continue":"next"},"more":{"items":[1]},"items":[
		{"metadata":{"namespace":"n","name":"x","resourceVersion":"5","labels":{"a":"b"},"managedFields":[{"manager":"m"}],
		 "annotations":{"k8s.v1.cni.cncf.io/resourceName":"r","o":"p"}},"spec":{"config":"c"}},
		{"metadata":{"namespace":"n","name":"bare"}}]}`
	x := nad("x", "c")
	x.ResourceVersion, x.Annotations = "5", map[string]string{netsel.ResourceName: "r"}
	want := &nadv1.NetworkAttachmentDefinitionList{
		ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "next"},
		Items:    []nadv1.NetworkAttachmentDefinition{*x, *nad("bare", "")},
	}
	got, err := readList(strings.NewReader(whole), cacheBudget)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v, (-want +got):\n%s", err, diff)
	}
	for n := range len(whole) - 1 {
		if got, err := readList(strings.NewReader(whole[:n]), cacheBudget); err == nil {
			t.Errorf("cut off at byte %d: %+v", n, got)
		}
	}
	for text, want := range map[string]int{
		`LIST,"items":null}`: 0, `LIST,"items":[]}`: 0, `LIST}`: 0, `LIST,"items":7}`: -1, `LIST,"items":[7]}`: -1, `[]`: -1,
		``:   -1,
		`{}`: -1, `{"items":[]}`: -1, `{"metadata":{"resourceVersion":"7"},"items":[]}`: -1,
		`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":200}`:                                            -1,
		`{"kind":"Status","apiVersion":"v1","metadata":{"resourceVersion":"7"}}`:                                                     -1,
		`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[]}`:                                         -1,
		`{"kind":"NetworkAttachmentDefinition","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"7"}}`:                -1,
		`{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","metadata":{},"items":[]}`:                      -1,
		`{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","items":[]}`:                                    -1,
		`{"items":[],"metadata":{"resourceVersion":"7"},"apiVersion":"k8s.cni.cncf.io/v1","kind":"NetworkAttachmentDefinitionList"}`: 0,
		`{"kind":7,"apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"7"},"items":[]}`:                                 -1,
	} {
		text = strings.Replace(text, "LIST",
			`{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"7"}`, 1)
		got, err := readList(strings.NewReader(text), cacheBudget)
		if (err != nil) != (want < 0) || err == nil && len(got.Items) != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

// TestRelistPause checks that the nodes of a cluster do not read a list again at the same moment, and that an empty
// cache reads it at once.
func TestRelistPause(t *testing.T) {
	t.Parallel()
	for n, limit := range map[int]time.Duration{
		0: 0, 1: 10 * time.Millisecond, 1000: 10 * time.Second,
		15_000: 2 * time.Minute,
	} {
		c := NewCache(nil, discard())
		if got := c.relistPause(); got != 0 {
			t.Errorf("first list: pause of %v", got)
		}
		list := make([]any, n)
		for i := range list {
			list[i] = nad(strconv.Itoa(i), "c")
		}
		if err := (store{c}).Replace(list, "1"); err != nil {
			t.Fatal(err)
		}
		longest := time.Duration(0)
		for range 100 {
			longest = max(longest, c.relistPause())
		}
		if longest > limit || longest < limit/2 {
			t.Errorf("%d definitions: the longest of 100 pauses is %v, want up to %v", n, longest, limit)
		}
	}
}

// TestPagesDoNotPause checks that the next page of a list is requested at once. Its token would expire otherwise.
func TestPagesDoNotPause(t *testing.T) {
	t.Parallel()
	c := NewCache(serve(t, answer(200, "",
		`{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"7"},"items":[]}`)), discard())
	list := make([]any, 15_000) // causes a pause of up to two minutes
	for i := range list {
		list[i] = nad(strconv.Itoa(i), "c")
	}
	if err := (store{c}).Replace(list, "1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // shorter than the pause
	defer cancel()
	if _, err := c.list(ctx, metav1.ListOptions{}); err == nil {
		t.Error("a list that is begun again does not pause")
	}
	if _, err := c.list(t.Context(), metav1.ListOptions{Continue: "next"}); err != nil {
		t.Error(err)
	}
}

// TestCacheBudget checks that many large definitions take no more memory than the budget, whether they are listed or
// added one after another, and that each is still found.
func TestCacheBudget(t *testing.T) { // not parallel: it measures the heap
	const number, size = 250, 200 << 10 // 50 MB
	config := strings.Repeat("c", size)
	quoted := strconv.Quote(config)
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		item := func(name string) string {
			return fmt.Sprintf(`{"metadata":{"namespace":"n","name":%q},"spec":{"config":%s}}`, name, quoted)
		}
		w.Header().Set("Content-Type", "application/json")
		if name := path.Base(r.URL.Path); name != nadResource {
			_, _ = io.WriteString(w, item(name))
			return
		}
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, `{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"7"},"items":[`)
		for i := range number {
			if i > 0 {
				_, _ = io.WriteString(w, ",")
			}
			_, _ = io.WriteString(w, item(strconv.Itoa(i)))
		}
		_, _ = io.WriteString(w, "]}")
	})
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	c := NewCache(client, discard())
	stop := start(t, c)
	eventually.Within(t, waitTimeout, "the watch works", func() bool { return isFollowing(c) })
	check := func(what string) {
		t.Helper()
		if used := heap() - before; used > cacheBudget+8<<20 || c.bytes > cacheBudget || c.Len() < number {
			t.Errorf("%s: %d definitions, %d bytes, take %d bytes of the heap", what, c.Len(), c.bytes, used)
		}
	}
	check("listed")
	for _, i := range []int{0, number - 1} {
		def, err := c.Network(t.Context(), plan.Ref{Namespace: "n", Name: strconv.Itoa(i)})
		if err != nil || def.Config != config {
			t.Errorf("definition %d: %v", i, err)
		}
	}
	for i := range number {
		if err := (store{c}).Add(nad(fmt.Sprint("more-", i), strings.Clone(config))); err != nil {
			t.Fatal(err)
		}
	}
	check("added")
	// Removed definitions free their part of the budget.
	for i := range number {
		if err := (store{c}).Delete(nad(strconv.Itoa(i), "")); err != nil {
			t.Fatal(err)
		}
	}
	if err := (store{c}).Update(nad("more-0", "small")); err != nil {
		t.Fatal(err)
	}
	if v := c.defs[plan.Ref{Namespace: "n", Name: "more-0"}]; v.live || c.bytes != len("small") {
		t.Errorf("%+v, %d bytes", v.live, c.bytes)
	}
	stop()
}

// TestTooLarge checks that a definition above the limit is refused with its size, whether it is listed or not. While
// the API server is unavailable, the error says why the definition is not in memory.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	config := strings.Repeat("c", plan.MaxConfigBytes+1)
	away := false
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if away {
			answer(503, "", "away")(w, r)
			return
		}
		answer(200, "", fmt.Sprintf(`{"metadata":{"namespace":"n","name":"x"},"spec":{"config":%q}}`, config))(w, r)
	})
	ref := plan.Ref{Namespace: "n", Name: "x"}
	for _, list := range [][]any{nil, {nad("x", config)}} {
		c, _ := follow(t, client, list...)
		_, err := c.Network(t.Context(), ref)
		if err == nil || !strings.Contains(err.Error(), "n/x: spec.config has 262145 bytes") {
			t.Errorf("error %v", err)
		}
		if c.bytes != 0 {
			t.Errorf("%d bytes are held", c.bytes)
		}
	}
	away = true
	c, _ := follow(t, client, nad("x", config))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Network(ctx, ref); err == nil || !strings.Contains(err.Error(), "not cached") {
		t.Errorf("error %v", err)
	}
}
