package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"multus/internal/engine/publish"
)

// patience bounds what a test waits for.
const patience = 20 * time.Second

// wall is a Cluster that fails the first writes of each pod and tells of the others.
type wall struct {
	fail    chan error // what the next write returns; closed: nothing fails
	written chan string
	// events, if set, holds up every event until it is closed.
	events chan struct{}
}

func (w *wall) SetAnnotation(_ context.Context, pod publish.Pod, _, value string) error {
	if err := <-w.fail; err != nil {
		return err
	}
	w.written <- pod.Name + " " + value
	return nil
}

func (w *wall) Emit(ctx context.Context, _ publish.Pod, _ publish.Event) error {
	if w.events == nil {
		return nil
	}
	select {
	case <-w.events:
	case <-ctx.Done():
	}
	return nil
}

func newWall(errs ...error) *wall {
	w := &wall{fail: make(chan error, len(errs)), written: make(chan string, 10)}
	for _, err := range errs {
		w.fail <- err
	}
	close(w.fail)
	return w
}

func testReport(name, address string) *publish.Report {
	return &publish.Report{Command: "ADD", Pod: publish.Pod{Namespace: "ns", Name: name, UID: "u-" + name}, Attached: []publish.Attached{{
		Name: "cluster", IfName: "eth0", Primary: true,
		Result: json.RawMessage(fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":%q,"interface":0}]}`, address)),
	}}}
}

func start(t *testing.T, w *wall, dir string) (*queue, func()) {
	t.Helper()
	q := newQueue(w, dir, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.run(ctx) }()
	return q, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %s", what, patience)
		panic("unreachable")
	}
}

// TestQueueWritesUntilWritten: a status that cannot be written is written later, and its file is gone then
// (architecture.md, Status; P19).
func TestQueueWritesUntilWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "reports")
	w := newWall(publish.ErrRetry, errors.New("forbidden"), publish.ErrRetry)
	q, stop := start(t, w, dir)
	receive(t, "the first attempt", q.add(testReport("a", "10.0.0.1/24")))
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("after a failed attempt: %v, %v, want one file", files, err)
	}
	receive(t, "the status", w.written)
	stop()
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("after the write: %v, %v, want no file", files, err)
	}
	if n := q.waiting(); n != 0 {
		t.Errorf("%v reports wait", n)
	}
}

// TestQueueDoesNotWaitForEvents: a pod waits for its status, not for the events after it.
func TestQueueDoesNotWaitForEvents(t *testing.T) {
	t.Parallel()
	w := newWall()
	w.events = make(chan struct{})
	q, stop := start(t, w, t.TempDir())
	defer stop()
	receive(t, "the answer", q.add(testReport("web", "10.0.0.2/24")))
	receive(t, "the status", w.written)
	if n := q.waiting(); n != 0 {
		t.Errorf("%v statuses wait", n)
	}
	close(w.events)
}

// TestQueueSurvivesRestart: what one daemon could not write the next one does, once.
func TestQueueSurvivesRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	away := make([]error, 100)
	for i := range away {
		away[i] = publish.ErrRetry
	}
	q, stop := start(t, newWall(away...), dir)
	receive(t, "the first attempt", q.add(testReport("a", "10.0.0.1/24")))
	stop()
	if err := os.WriteFile(filepath.Join(dir, "broken.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWall()
	_, stop = start(t, w, dir)
	receive(t, "the status after the restart", w.written)
	stop()
	if _, err := os.Stat(filepath.Join(dir, "broken.json.damaged")); err != nil {
		t.Errorf("a report that cannot be read is not kept aside: %v", err)
	}
}

// TestQueueNewestWins: an older report of a pod never overwrites a newer one.
func TestQueueNewestWins(t *testing.T) {
	t.Parallel()
	w := newWall(publish.ErrRetry)
	q, stop := start(t, w, t.TempDir())
	defer stop()
	receive(t, "the first attempt", q.add(testReport("a", "10.0.0.1/24")))
	receive(t, "the second report", q.add(testReport("a", "10.0.0.2/24")))
	got := receive(t, "a status", w.written)
	want, err := publish.Status(testReport("a", "10.0.0.2/24"))
	if err != nil || got != "a "+want {
		t.Errorf("got %s, %v", got, err)
	}
	select {
	case late := <-w.written:
		t.Errorf("written after the newer one: %s", late)
	case <-time.After(4 * firstRetry):
	}
}

// TestQueueForgetsGonePods: a pod that is gone is not tried again (behaviour.md D123).
func TestQueueForgetsGonePods(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q, stop := start(t, newWall(publish.ErrGone), dir)
	receive(t, "the attempt", q.add(testReport("a", "10.0.0.1/24")))
	stop()
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 || q.waiting() != 0 {
		t.Errorf("left: %v, %v, %v waiting", files, err, q.waiting())
	}
}
