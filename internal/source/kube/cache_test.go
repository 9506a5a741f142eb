package kube

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"multus/internal/engine/plan"
)

func nad(name, config string) *nadv1.NetworkAttachmentDefinition {
	return &nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name},
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: config},
	}
}

// follow makes a cache look as if it followed a watch, with the given definitions.
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

// TestRemember: an answer that may be of a definition deleted meanwhile would stay for ever.
func TestRemember(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// meanwhile happens between the question and its answer
		meanwhile func(c *Cache, s *stream)
		want      int
	}{
		{"watch is well", func(*Cache, *stream) {}, 1},
		{"watch breaks", func(_ *Cache, s *stream) { s.Stop() }, 0},
		{"it is deleted", func(c *Cache, _ *stream) { _ = store{c}.Delete(nad("x", "old")) }, 0},
		{"the list is replaced", func(c *Cache, _ *stream) { _ = store{c}.Replace(nil, "2") }, 0},
		{"never synced", func(c *Cache, _ *stream) { c.synced = false }, 0},
		{"a new watch has not listed yet", func(c *Cache, _ *stream) { c.current = false }, 0},
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

// TestNewerEventWins: the watch may be faster than the answer to a question asked before.
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

// TestBrokenWatch: a definition that is held is asked for once, briefly, and not again for a while.
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

// TestListFallback is an API server that cannot stream lists, and later one that allows no watch.
func TestListFallback(t *testing.T) {
	t.Parallel()
	var watches, gets atomic.Int32
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case q.Get("sendInitialEvents") != "":
			answer(422, "", statusBody(422, "Invalid", ""))(w, r)
		case q.Get("watch") != "" && watches.Add(1) == 1:
			w.Header().Set("Content-Type", "application/json")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case q.Get("watch") != "":
			answer(403, "", statusBody(403, "Forbidden", ""))(w, r)
		case strings.HasSuffix(r.URL.Path, "/network-attachment-definitions"):
			answer(200, "", `{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"7"},
				"items":[{"metadata":{"namespace":"n","name":"x","annotations":{"k8s.v1.cni.cncf.io/resourceName":"r","o":"p"}},"spec":{"config":"c"}}]}`)(w, r)
		default:
			gets.Add(1)
			answer(404, "", statusBody(404, "NotFound", ""))(w, r)
		}
	})
	c := NewCache(client, discard())
	stop := start(t, c)
	eventually(t, "the list is followed", func() bool {
		c.mu.RLock()
		defer c.mu.RUnlock()
		return c.well()
	})
	def, err := c.Network(t.Context(), plan.Ref{Namespace: "n", Name: "x"})
	if err != nil || def.Config != "c" || def.ResourceName != "r" || gets.Load() != 0 {
		t.Errorf("Network = %+v, %v, %d live questions", def, err, gets.Load())
	}
	stop()
	if c.well() {
		t.Error("well after the end of Run")
	}
}

// TestTrim: what is gathered while a list comes in must not hold whole objects.
func TestTrim(t *testing.T) {
	t.Parallel()
	o := nad("x", "c")
	o.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	o.Labels, o.Annotations = map[string]string{"a": "b"}, map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "…", resourceAnno: "r"}
	if _, err := (store{}).Transformer()(o); err != nil {
		t.Fatal(err)
	}
	if o.ManagedFields != nil || o.Labels != nil || len(o.Annotations) != 1 || o.Annotations[resourceAnno] != "r" || o.Spec.Config != "c" {
		t.Errorf("trimmed = %+v", o)
	}
}

// TestRunEndsDuringBackoff: the reflector waits for up to a minute without looking at its context.
func TestRunEndsDuringBackoff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	clock := interruptible{ctx: ctx}
	long := clock.After(time.Hour)
	<-clock.After(time.Nanosecond)
	select {
	case <-long:
		t.Error("an hour is over")
	default:
	}
	cancel()
	select {
	case <-long:
	case <-time.After(patience):
		t.Error("the end of the context does not end the wait")
	}
}
