package podstatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fsx"
	"multus/internal/testutil/eventually"
	wirev1 "multus/wire/v1"
)

// fileContent returns the content of the file in which a plugin leaves a report.
func fileContent(r *publish.Report) []byte { return wirev1.FromReport(r).AppendJSON(nil) }

// failingCluster is a Cluster that fails the first writes of each pod and reports the successful ones on written.
type failingCluster struct {
	fail    chan error // the error of the next write; if closed, writes succeed
	written chan string
	// events, if set, blocks every event until it is closed.
	events chan struct{}
	// emitted, if set, receives the pod of each event.
	emitted chan string
	// failingEvents is the number of events that still fail with ErrRetry.
	failingEvents atomic.Int32
}

func (w *failingCluster) SetStatus(_ context.Context, pod request.Pod, _, value string, _ *publish.Unready) error {
	if err := <-w.fail; err != nil {
		return err
	}
	w.written <- pod.Name + " " + value
	return nil
}

func (w *failingCluster) Emit(ctx context.Context, pod request.Pod, _ publish.Event) error {
	if w.failingEvents.Add(-1) >= 0 {
		return publish.ErrRetry
	}
	if w.emitted != nil && ctx.Err() == nil {
		w.emitted <- pod.Name
	}
	if w.events == nil {
		return nil
	}
	select {
	case <-w.events:
	case <-ctx.Done():
	}
	return nil
}

func newFailingCluster(errs ...error) *failingCluster {
	w := &failingCluster{fail: make(chan error, len(errs)), written: make(chan string, 10)}
	for _, err := range errs {
		w.fail <- err
	}
	close(w.fail)
	return w
}

func testReport(name, address string) *publish.Report {
	return &publish.Report{
		Command: "ADD", Pod: request.Pod{Namespace: "ns", Name: name, UID: "u-" + name},
		Attached: []publish.Attached{{
			Name: "cluster", IfName: "eth0", Primary: true,
			Result: json.RawMessage(fmt.Sprintf(
				`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":%q,"interface":0}]}`,
				address)),
		}},
	}
}

// sandbox returns the report of a sandbox of a pod. A later sandbox has a higher number.
func sandbox(name string, number int) *publish.Report {
	r := testReport(name, fmt.Sprintf("10.%d.%d.%d/8", number>>16, number>>8&255, number&255))
	r.ContainerID, r.Time = fmt.Sprint("c", number), int64(number)
	return r
}

// status returns the value that wall.written receives for the status of a report.
func status(t *testing.T, r *publish.Report) string {
	t.Helper()
	value, err := publish.Status(r)
	if err != nil {
		t.Fatal(err)
	}
	return r.Pod.Name + " " + value
}

// place writes a file as the plugin does, which creates the directory if it does not exist.
func place(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), fsx.Replace(path, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// leave leaves a report in a file, as the plugin does.
func leave(t *testing.T, dir string, r *publish.Report) {
	t.Helper()
	place(t, filepath.Join(dir, r.File()), fileContent(r))
}

// files returns the names of the files in dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// noObserver is a Metrics that counts nothing.
type noObserver struct{}

func (noObserver) StatusWritten(string, int64, *publish.Trace) {}
func (noObserver) StatusRetried()                              {}
func (noObserver) StatusGivenUp()                              {}
func (noObserver) Observe(*publish.Report)                     {}

// takenReports is a Metrics that receives the names of the pods whose reports were left in files.
type takenReports struct {
	noObserver
	names chan string
}

func (m *takenReports) Observe(r *publish.Report) { m.names <- r.Pod.Name }

func newWriter(c publish.Cluster, dir string, log *slog.Logger) *Writer {
	return New(Options{Cluster: c, Dir: dir, Observer: noObserver{}, Clock: clock.RealClock{}, Log: log})
}

// newFakeWriter returns a Writer with a clock that the test controls.
func newFakeWriter(c publish.Cluster, dir string, now *clocktesting.FakeClock) *Writer {
	return New(Options{
		Cluster: c, Dir: dir, Observer: noObserver{}, Clock: now, Log: slog.New(slog.DiscardHandler),
	})
}

// add takes a report. The channel that it returns is closed after the first attempt to write the status.
func add(q *Writer, r *publish.Report) <-chan struct{} { return q.take(r).attempted }

func start(t *testing.T, w publish.Cluster, dir string) (*Writer, func()) {
	t.Helper()
	q := newWriter(w, dir, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	return q, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestQueueWritesUntilWritten checks that a status which cannot be written is retried, and that its file is removed
// afterwards (multus-cni#1359).
func TestQueueWritesUntilWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "reports")
	w := newFailingCluster(publish.ErrRetry, errors.New("forbidden"), publish.ErrRetry)
	q, stop := start(t, w, dir)
	eventually.Receive(t, "the first attempt", add(q, testReport("a", "10.0.0.1/24")))
	// The file may be in the middle of a replacement.
	if files, err := filepath.Glob(filepath.Join(dir, "*.json")); err != nil || len(files) != 1 {
		t.Errorf("after a failed attempt: %v, %v, want one file", files, err)
	}
	eventually.Receive(t, "the status", w.written)
	stop()
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("after the write: %v, %v, want no file", files, err)
	}
	if n := q.Waiting(); n != 0 {
		t.Errorf("%v reports wait", n)
	}
}

// TestQueueDoesNotWaitForEvents checks that a pod does not wait for the events after its status.
func TestQueueDoesNotWaitForEvents(t *testing.T) {
	t.Parallel()
	w := newFailingCluster()
	w.events = make(chan struct{})
	q, stop := start(t, w, t.TempDir())
	defer stop()
	eventually.Receive(t, "the answer", add(q, testReport("web", "10.0.0.2/24")))
	eventually.Receive(t, "the status", w.written)
	if n := q.Waiting(); n != 0 {
		t.Errorf("%v statuses wait", n)
	}
	close(w.events)
}

// blockingCluster is a Cluster whose writes block until the test releases them, in any order.
type blockingCluster struct {
	begun chan chan struct{}
	mu    sync.Mutex
	order []string
}

func (s *blockingCluster) SetStatus(_ context.Context, _ request.Pod, _, value string, _ *publish.Unready) error {
	end := make(chan struct{})
	s.begun <- end
	<-end
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = append(s.order, value)
	return nil
}

func (s *blockingCluster) Emit(context.Context, request.Pod, publish.Event) error { return nil }

// TestQueueKeepsOrder checks that the status of a later sandbox does not overtake one that is being written. Otherwise
// the earlier status would stay.
func TestQueueKeepsOrder(t *testing.T) {
	t.Parallel()
	w := &blockingCluster{begun: make(chan chan struct{})}
	q, stop := start(t, w, t.TempDir())
	defer stop()
	first, last := testReport("web", "10.0.0.2/24"), testReport("web", "10.0.0.4/24")
	first.Time, last.Time = 1, 3
	middle := testReport("web", "10.0.0.3/24")
	middle.Time = 2
	one := add(q, first)
	end := eventually.Receive(t, "the first write", w.begun)
	two, three := add(q, middle), add(q, last)
	select {
	case <-w.begun:
		t.Error("two statuses of a pod are written at the same time")
	case <-time.After(50 * time.Millisecond):
	}
	close(end)
	close(eventually.Receive(t, "the last write", w.begun))
	for _, done := range []<-chan struct{}{one, two, three} {
		eventually.Receive(t, "the answer", done)
	}
	if len(w.order) != 2 || !strings.Contains(w.order[1], "10.0.0.4") {
		t.Errorf("written: %q", w.order)
	}
}

// TestQueueIsFull checks that statuses wait up to the limit, even if they cannot be kept in files, and that each is
// written once and not concurrently with another of its pod. Events that exceed the limit are dropped, which is logged.
func TestQueueIsFull(t *testing.T) {
	t.Parallel()
	for what, dir := range map[string]string{"kept": t.TempDir(), "not kept": "/dev/null/reports"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newFailingCluster()
			log := &strings.Builder{}
			q := newWriter(w, dir, slog.New(slog.NewTextHandler(log, nil)))
			for i := range maxBatches {
				q.emit(&eventBatch{container: fmt.Sprint(i)})
			}
			q.keep(q.take(sandbox("web", 1)))
			q.keep(q.take(sandbox("web", 2)))
			if strings.Contains(log.String(), "events") {
				t.Error(log)
			}
			q.Announce(publish.Missing(sandbox("db", 1).Pod, "c", "m"))
			if !strings.Contains(log.String(), "events not written") {
				t.Error(log)
			}
			if n := q.Waiting(); n != 1 {
				t.Errorf("%v statuses wait", n)
			}
			stop := runUntil(t, q)
			if got := eventually.Receive(t, "the status", w.written); got != status(t, sandbox("web", 2)) {
				t.Errorf("written: %s", got)
			}
			q.scanAndQueue()
			stop()
			if n := q.Waiting(); n != 0 || len(w.written) > 0 {
				t.Errorf("%v statuses wait, %d are written again", n, len(w.written))
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestQueueFiles checks that reports in files are read as they come, also in a directory that was created again. A file
// that cannot be read is read later, and only a file without a report is set aside.
func TestQueueFiles(t *testing.T) {
	t.Parallel()
	w, dir := newFailingCluster(), filepath.Join(t.TempDir(), "reports")
	later, bad := filepath.Join(dir, publish.FileName(1, 1)), filepath.Join(dir, publish.FileName(2, 2))
	place(t, later, fileContent(testReport("later", "10.0.0.1/24")))
	taken := make(chan string, 10)
	q := newWriter(w, dir, slog.New(slog.DiscardHandler))
	q.observer = &takenReports{names: taken}
	q.spool.reading = func(name string) error {
		if name == filepath.Base(later) {
			return unix.EIO
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	leave(t, dir, testReport("web", "10.0.0.2/24"))
	eventually.Receive(t, "the first status", w.written)
	place(t, bad, []byte("{"))
	leave(t, dir, testReport("db", "10.0.0.3/24"))
	eventually.Receive(t, "the second status", w.written)
	if _, err := os.Stat(bad + damaged); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(later); err != nil {
		t.Errorf("a file that could not be read is gone: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	leave(t, dir, testReport("new", "10.0.0.4/24"))
	eventually.Receive(t, "the status after the directory was created again", w.written)
	for _, want := range []string{"web", "db", "new"} {
		if got := eventually.Receive(t, "the reports that were taken", taken); got != want {
			t.Errorf("taken: %s, not %s", got, want)
		}
	}
}

// TestEventsAreRetried checks that events wait while the API server is unavailable, and that each is written once.
func TestEventsAreRetried(t *testing.T) {
	t.Parallel()
	w := newFailingCluster()
	w.emitted = make(chan string, 10)
	w.failingEvents.Store(2)
	q, stop := start(t, w, t.TempDir())
	defer stop()
	two := testReport("web", "10.0.0.2/24")
	two.Attached = append(two.Attached, two.Attached[0])
	eventually.Receive(t, "the answer", add(q, two))
	eventually.Receive(t, "the first event", w.emitted)
	eventually.Receive(t, "the second event", w.emitted)
	select {
	case <-w.emitted:
		t.Error("an event is written twice")
	case <-time.After(3 * firstRetry):
	}
}

// TestQueueShutdownGrace checks that the events that wait when the daemon is stopped are written.
func TestQueueShutdownGrace(t *testing.T) {
	t.Parallel()
	w := newFailingCluster()
	w.emitted = make(chan string, 10)
	q := newWriter(w, t.TempDir(), slog.New(slog.DiscardHandler))
	r := testReport("web", "10.0.0.2/24")
	events, err := publish.Events(r)
	if err != nil {
		t.Fatal(err)
	}
	q.emitEvents(newPending(r), events, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Run(ctx); err != nil {
		t.Error(err)
	}
	eventually.Receive(t, "the event", w.emitted)
}

// TestQueueSurvivesRestart checks that the next daemon writes, once, what the previous one could not.
func TestQueueSurvivesRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	away := make([]error, 100)
	for i := range away {
		away[i] = publish.ErrRetry
	}
	q, stop := start(t, newFailingCluster(away...), dir)
	eventually.Receive(t, "the first attempt", add(q, testReport("a", "10.0.0.1/24")))
	stop()
	broken := filepath.Join(dir, publish.FileName(1, 1))
	place(t, broken, []byte("{"))
	w := newFailingCluster()
	_, stop = start(t, w, dir)
	eventually.Receive(t, "the status after the restart", w.written)
	stop()
	if _, err := os.Stat(broken + damaged); err != nil {
		t.Errorf("a report that cannot be read is not kept aside: %v", err)
	}
}

// TestQueueNewestWins checks that an older report of a pod never overwrites a newer one.
func TestQueueNewestWins(t *testing.T) {
	t.Parallel()
	w := newFailingCluster(publish.ErrRetry)
	q, stop := start(t, w, t.TempDir())
	defer stop()
	eventually.Receive(t, "the first attempt", add(q, testReport("a", "10.0.0.1/24")))
	eventually.Receive(t, "the second report", add(q, testReport("a", "10.0.0.2/24")))
	got := eventually.Receive(t, "a status", w.written)
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

// TestStatusOfDeletedPodIsDropped checks that the status of a deleted pod is not tried again (behaviour D123).
func TestStatusOfDeletedPodIsDropped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q, stop := start(t, newFailingCluster(publish.ErrGone), dir)
	eventually.Receive(t, "the attempt", add(q, testReport("a", "10.0.0.1/24")))
	stop()
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 || q.Waiting() != 0 {
		t.Errorf("left: %v, %v, %v waiting", files, err, q.Waiting())
	}
}

// TestRetryPause checks that pauses grow up to a limit, and have jitter so that many nodes do not retry in step.
func TestRetryPause(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for n := 1; n < 100; n++ {
		d := retryPause(n, lastRetry)
		if limit := min(firstRetry<<min(n-1, 16), lastRetry); d < limit/2 || d > limit {
			t.Errorf("pause %d is %v, of %v", n, d, limit)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different pauses of 99", len(seen))
	}
}
