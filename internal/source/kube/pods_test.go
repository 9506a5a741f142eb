package kube

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// calls records the calls of a PodHandler.
type calls []string

// Observe records a call.
func (c *calls) Observe(p *plan.Pod) { *c = append(*c, "observe "+p.UID) }

// Gone records a call.
func (c *calls) Gone(p *plan.Pod) { *c = append(*c, "gone "+p.UID) }

func podMeta(name, uid string) *watchedPod {
	return &watchedPod{PartialObjectMetadata: metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: "team-a", Name: name, UID: types.UID(uid),
		Annotations: map[string]string{netsel.Networks: "net-a", "large": "value"},
	}}}
}

// refuse is a transport without an API server.
type refuse struct{ requests *int }

// RoundTrip counts the request and fails.
func (r refuse) RoundTrip(*http.Request) (*http.Response, error) {
	*r.requests++
	return nil, syscall.ECONNREFUSED
}

// TestWatchesEnd checks that the watches resume while the API server is away, and that they end with their context: the
// daemon waits for them when it ends.
func TestWatchesEnd(t *testing.T) {
	t.Parallel()
	for name, watch := range map[string]struct {
		run      func(ctx context.Context, c *Client)
		pauseMax time.Duration
	}{
		"pods": {
			func(ctx context.Context, c *Client) { c.WatchPods(ctx, "node-a", &calls{}, discard()) }, podsPauseMax,
		},
		"network definitions": {func(ctx context.Context, c *Client) { NewCache(c, discard()).Run(ctx) }, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				client := clientOf(t, &rest.Config{Host: "http://api.invalid", Transport: refuse{&requests}})
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { watch.run(ctx, client) })
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if least := int(10 * time.Minute / (2 * watch.pauseMax)); requests < least {
					t.Errorf("%d requests in ten minutes, want at least %d", requests, least)
				}
				before := time.Now()
				cancel()
				wg.Wait()
				if took := time.Since(before); took != 0 {
					t.Errorf("the watch ended %v after its context", took)
				}
			})
		})
	}
}

// TestPodStore checks what the handler is told: also about pods whose deletion the watch missed, and about a pod that
// was created again with the same name.
func TestPodStore(t *testing.T) {
	t.Parallel()
	var got calls
	s := &podStore{handler: &got, gates: &gates{}}
	err := errors.Join(
		s.Replace([]any{podMeta("a", "1"), podMeta("b", "2")}, "10"),
		s.Update(podMeta("a", "1")),
		s.Add(podMeta("c", "3")),
		s.Delete(podMeta("c", "3")),
		s.Delete(podMeta("c", "3")),
		s.Replace([]any{podMeta("b", "4")}, "20"),
		s.Resync(),
	)
	if err != nil {
		t.Fatal(err)
	}
	want := calls{"observe 1", "observe 2", "observe 1", "observe 3", "gone 3", "gone 1", "gone 2", "observe 4"}
	if len(got) == len(want) {
		slices.Sort(got[5:7]) // missed deletions have no order
	}
	if !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
	if err := s.Add(&metav1.Status{}); err == nil {
		t.Error("another object is accepted as a pod")
	}
	if p := s.pods["4"]; len(p.Annotations) != 1 || p.Annotations[netsel.Networks] != "net-a" {
		t.Errorf("annotations %v, want those about networks", p.Annotations)
	}
}
