package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/engine/plan"
	"multus/internal/testutil/eventually"
)

// podEvent returns an event of a watch of the metadata of pods.
func podEvent(kind, name, version, annotations string) string {
	return fmt.Sprintf(`{"type":%q,"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":`+
		`{"namespace":"team","name":%q,"uid":%q,"resourceVersion":%q,"annotations":{%s}}}}`+"\n", kind, name, name, version,
		annotations)
}

const (
	onNet  = `"k8s.v1.cni.cncf.io/network-status":"[{\"name\":\"cbr0\"},{\"name\":\"team/net\"},{\"name\":\"team/net\"}]"`
	onBoth = `"k8s.v1.cni.cncf.io/network-status":"[{\"name\":\"team/net\"},{\"name\":\"infra/net\"}]"`
	ended  = `"k8s.io/initial-events-end":"true"`
)

// runAttached runs an index until the end of the test.
func runAttached(t *testing.T, c *Client) *AttachedPods {
	t.Helper()
	a := NewAttachedPods(c, discard())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { a.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return a
}

func users(a *AttachedPods, namespace, name string) string {
	pods, total := a.Users(plan.Ref{Namespace: namespace, Name: name}, 2)
	return fmt.Sprint(total, pods)
}

// TestAttachedPods checks the index against the events of an API server that streams the first state: no list is
// requested, and only metadata of pods that have not ended. (behaviour S17, S29.)
func TestAttachedPods(t *testing.T) {
	t.Parallel()
	events := make(chan string, 20)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.URL.Path != "/api/v1/pods" || q.Get("watch") != "true" || q.Get("fieldSelector") != running ||
			r.Header.Get("Accept") != acceptMetadata {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case e := <-events:
				_, _ = io.WriteString(w, e)
			}
		}
	})
	a := runAttached(t, c)
	events <- podEvent("ADDED", "web-3", "1", onNet)
	events <- podEvent("ADDED", "web-1", "2", onBoth)
	events <- podEvent("ADDED", "plain", "3", "")
	if a.Synced() {
		t.Error("synced before the end of the first state")
	}
	events <- podEvent("BOOKMARK", "", "4", ended)
	eventually.True(t, "synced", a.Synced)
	is := func(want string) {
		t.Helper()
		eventually.True(t, want, func() bool { return users(a, "team", "net")+" "+users(a, "infra", "net") == want })
	}
	is("2 [team/web-1 team/web-3] 1 [team/web-1]")
	for _, one := range []struct{ event, want string }{
		{podEvent("ADDED", "web-2", "5", onNet), "3 [team/web-1 team/web-2] 1 [team/web-1]"},
		{podEvent("MODIFIED", "web-1", "6", onNet), "3 [team/web-1 team/web-2] 0 []"},
		{podEvent("MODIFIED", "web-2", "7", ""), "2 [team/web-1 team/web-3] 0 []"},
		{podEvent("MODIFIED", "web-3", "8", `"k8s.v1.cni.cncf.io/network-status":"["`), "1 [team/web-1] 0 []"},
		{podEvent("MODIFIED", "plain", "9", onBoth), "2 [team/plain team/web-1] 1 [team/plain]"},
		{podEvent("DELETED", "web-1", "10", onNet), "1 [team/plain] 1 [team/plain]"},
		{podEvent("DELETED", "plain", "11", onBoth), "0 [] 0 []"},
	} {
		events <- one.event
		is(one.want)
	}
	if diff := cmp.Diff(0, len(a.networks)+len(a.users)); diff != "" {
		t.Errorf("pods are left: %s", diff)
	}
}

// TestAttachedPodsAreListed checks that the metadata of all pages is listed where the API server does not stream the
// first state. (behaviour S29.)
func TestAttachedPodsAreListed(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		w.Header().Set("Content-Type", "application/json")
		item := func(name, annotations string) string {
			return fmt.Sprintf(`{"metadata":{"namespace":"team","name":%q,"annotations":{%s}}}`, name, annotations)
		}
		switch {
		case q.Get("sendInitialEvents") == "true":
			answer(422, "", statusBody(422, "Invalid", ""))(w, r)
		case q.Get("watch") == "true":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case r.Header.Get("Accept") != acceptMetadataList || q.Get("fieldSelector") != running:
			t.Errorf("%s %v", r.URL, r.Header)
		case q.Get("continue") == "":
			_, _ = io.WriteString(w, `{"metadata":{"resourceVersion":"7","continue":"more"},"items":[`+item("web-1", onNet)+","+
				item("plain", "")+`]}`)
		default:
			_, _ = io.WriteString(w, `{"metadata":{"resourceVersion":"7"},"items":[`+item("web-2", onNet)+`]}`)
		}
	})
	a := runAttached(t, c)
	eventually.True(t, "synced", a.Synced)
	if got := users(a, "team", "net"); got != "2 [team/web-1 team/web-2]" {
		t.Error(got)
	}
}

// observed records the calls of a cache.
type observed []string

func (o *observed) Observe(d *Observed) {
	*o = append(*o, fmt.Sprintf("%s %s %s %v %v", d.Ref, d.UID, d.Config, d.Annotations, d.Partial))
}

func (o *observed) Gone(ref plan.Ref) { *o = append(*o, "gone "+ref.String()) }

// TestObserver checks that the observer of a cache gets every definition with the annotations that it names, those that
// are too large without a configuration, and the definitions that are missing in a new list as gone. (behaviour S22,
// S23.)
func TestObserver(t *testing.T) {
	t.Parallel()
	var got observed
	c := NewCache(nil, discard())
	c.Observe(&got, "keep")
	read := func(items string) {
		t.Helper()
		list, err := readList(strings.NewReader(`{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1",`+
			`"metadata":{"resourceVersion":"1"},"items":[`+items+`]}`), cacheBudget, c.extra...)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]any, len(list.Items))
		for i := range list.Items {
			all[i] = &list.Items[i]
		}
		if err := (store{c}).Replace(all, "1"); err != nil {
			t.Fatal(err)
		}
	}
	item := func(name, annotations, config string) string {
		return fmt.Sprintf(`{"metadata":{"namespace":"a","name":%q,"uid":%q,"annotations":{%s}},"spec":{"config":%q}}`, name,
			name, annotations, config)
	}
	read(item("x", `"keep":"1","other":"2"`, "{}") + "," + item("y", "", strings.Repeat("x", plan.MaxConfigBytes+1)))
	if d := c.defs[plan.Ref{Namespace: "a", Name: "x"}]; d.annotations["keep"] != "1" || d.size() != len("{}keep1") {
		t.Errorf("%+v", d)
	}
	read(item("x", "", "{}"))
	if err := (store{c}).Delete(&nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"},
	}); err != nil {
		t.Fatal(err)
	}
	want := observed{"a/x x {} map[keep:1] false", "a/y y  map[] true", "a/x x {} map[] false", "gone a/y", "gone a/x"}
	if diff := cmp.Diff(want, got); diff != "" || len(c.All()) != 0 {
		t.Errorf("%s", diff)
	}
}

// TestAnnotations checks that the annotations of a definition come from memory while the watch works, and are read for
// a definition that the watch does not have yet.
func TestAnnotations(t *testing.T) {
	t.Parallel()
	reads := 0
	c := NewCache(serve(t, func(w http.ResponseWriter, r *http.Request) {
		reads++
		w.Header().Set("Content-Type", "application/json")
		if !strings.HasSuffix(r.URL.Path, "/namespaces/a/network-attachment-definitions/x") {
			answer(404, "", statusBody(404, "NotFound", ""))(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"metadata":{"namespace":"a","name":"x","annotations":{"keep":"1","other":"2"}}}`)
	}), discard())
	c.Observe(&observed{}, "keep")
	ref := plan.Ref{Namespace: "a", Name: "x"}
	is := func(wantReads int) {
		t.Helper()
		got, err := c.Annotations(t.Context(), ref)
		if err != nil || len(got) != 1 || got["keep"] != "1" || reads != wantReads {
			t.Errorf("%v, %v after %d reads, want %d", got, err, reads, wantReads)
		}
	}
	is(1) // nothing is cached
	c.synced, c.stream = true, &stream{}
	c.cacheLive(&plan.Definition{Ref: ref}, 0)
	is(2) // cached without annotations
	if err := (store{c}).Update(&nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{
		Namespace: "a", Name: "x", Annotations: map[string]string{"keep": "1"},
	}}); err != nil {
		t.Fatal(err)
	}
	is(2)
	if _, err := c.Annotations(t.Context(), plan.Ref{Namespace: "a", Name: "y"}); !errors.Is(err, plan.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
