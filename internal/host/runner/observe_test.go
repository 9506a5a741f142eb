package runner

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// TestObserveEmpty checks that a runner answers a request to observe the sandboxes of a node without any, and that this
// does not keep it from ending (behaviour R25).
func TestObserveEmpty(t *testing.T) {
	t.Parallel()
	f := newFakeDaemon(t, `{"pods":[],"observe":true}`, 0)
	r, _ := f.runner(t, 100*time.Millisecond)
	if err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.observed) == 0 || len(f.observed[0].Sandboxes) > 0 || f.observed[0].More {
		t.Errorf("%+v", f.observed)
	}
}

// TestBatches checks that what is observed is sent in messages of limited size, without sandboxes that are larger, and
// without pods that have several: which of them the network status is about is not known. The pods in which a change
// was interrupted are in the first one, once (behaviour R33).
func TestBatches(t *testing.T) {
	t.Parallel()
	sizes := map[string]int{"a": maxObserved / 2, "b": maxObserved / 2, "c": maxObserved + 1, "d": 10, "e": 10, "e2": 10}
	var all []*publish.Observation
	for _, id := range []string{"a", "b", "c", "d", "e", "e2"} {
		all = append(all, &publish.Observation{
			ContainerID: id, Pod: request.Pod{Name: id[:1]},
			Attached: []publish.Attached{{Result: bytes.Repeat([]byte(" "), sizes[id])}},
		})
	}
	for range 2 { // a sandbox that an interrupted change has left, and an earlier one of its pod
		all = append(all, &publish.Observation{ContainerID: "p", Pod: request.Pod{Name: "p"}, Pending: true})
	}
	var got []string
	for _, msg := range batches(all) {
		var names []string
		for i := range msg.Sandboxes {
			names = append(names, msg.Sandboxes[i].ContainerID)
		}
		for _, pod := range msg.Pending {
			names = append(names, pod.Name+"!")
		}
		got = append(got, strings.Join(names, " "))
		if last := len(got) == 2; msg.More == last {
			t.Errorf("message %d: more %t", len(got), msg.More)
		}
	}
	if want := []string{"a b p!", "d"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if none := batches(nil); len(none) != 1 || none[0].More {
		t.Errorf("%+v", none)
	}
}
