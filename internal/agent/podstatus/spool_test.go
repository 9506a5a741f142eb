package podstatus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
)

// stoppedQueue returns a queue that is not running.
func stoppedQueue(t *testing.T, w publish.Cluster) *Writer {
	t.Helper()
	return newWriter(w, filepath.Join(t.TempDir(), "reports"), slog.New(slog.DiscardHandler))
}

// runUntil runs a queue until the test ends or stop is called.
func runUntil(t *testing.T, q *Writer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestReportLeftDuringRemoval checks that a report which a plugin leaves while the daemon removes an earlier one of the
// pod is not removed with it, at any moment, for the same container and for another. The plugin takes no lock.
func TestReportLeftDuringRemoval(t *testing.T) {
	t.Parallel()
	w, dir := newFailingCluster(), filepath.Join(t.TempDir(), "reports")
	_, stop := start(t, w, dir)
	for i := 1; i < 2000; i += 2 {
		first, later := sandbox("web", i), sandbox("web", i+1)
		later.ContainerID = first.ContainerID
		leave(t, dir, first)
		eventually.Receive(t, "the first status", w.written)
		time.Sleep(time.Duration(i%100) * time.Microsecond)
		leave(t, dir, later)
		for want := status(t, later); eventually.Receive(t, fmt.Sprint("status ", i+1), w.written) != want; {
		}
	}
	stop()
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestReportLeftDuringRead checks that a report which replaces a file of the earlier form, of which a pod has one,
// while the daemon reads it, is read too, whether the replaced file was a report or damaged.
func TestReportLeftDuringRead(t *testing.T) {
	t.Parallel()
	for what, content := range map[string][]byte{"a report": fileContent(sandbox("web", 1)), "damaged": []byte("{")} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newFailingCluster()
			q := stoppedQueue(t, w)
			path, place2 := filepath.Join(q.spool.dir, "ns_web_u-web.json"), filepath.Join(q.spool.dir, ".next")
			place(t, place2, fileContent(sandbox("web", 2)))
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			q.spool.reading = func(string) error {
				q.spool.reading = nil
				return os.Rename(place2, path)
			}
			q.scanFile(filepath.Base(path))
			defer runUntil(t, q)()
			for want := status(t, sandbox("web", 2)); eventually.Receive(t, "the later status", w.written) != want; {
			}
		})
	}
}

// TestNoRegularFile checks that a file among the reports which is not regular is set aside without blocking.
func TestNoRegularFile(t *testing.T) {
	t.Parallel()
	q := stoppedQueue(t, newFailingCluster())
	pipe, link := publish.FileName(1, 1), publish.FileName(1, 2)
	err := errors.Join(
		os.MkdirAll(q.spool.dir, 0o700),
		unix.Mkfifo(filepath.Join(q.spool.dir, pipe), 0o600), os.Symlink("/dev/zero", filepath.Join(q.spool.dir, link)),
	)
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		q.scanAndQueue()
	}()
	eventually.Receive(t, "the directory was read", looked)
	if got := files(t, q.spool.dir); len(got) != 2 || !slices.Contains(got, pipe+damaged) ||
		!slices.Contains(got, link+damaged) {
		t.Errorf("left: %v", got)
	}
}

// TestTwoSandboxes checks that only the latest of several waiting reports of a pod is written, whatever their order and
// the names of their files, and that no file remains.
func TestTwoSandboxes(t *testing.T) {
	t.Parallel()
	own := func(r *publish.Report) string { return r.File() }
	tests := map[string]struct {
		names []func(*publish.Report) string // of the files of sandboxes 1, 2 and 3
		order []int
	}{
		"in the order of arrival": {[]func(*publish.Report) string{own, own, own}, []int{1, 2, 3}},
		"the latest one left by the previous daemon": {
			[]func(*publish.Report) string{own, own, func(*publish.Report) string { return "a_b_c.json" }}, []int{2, 3, 1},
		},
		"the earliest one left by the previous daemon": {
			[]func(*publish.Report) string{func(*publish.Report) string { return "ns_web_u-web.json" }, own, own},
			[]int{3, 1, 2},
		},
		"names in another order than the times": {[]func(*publish.Report) string{
			func(*publish.Report) string { return publish.FileName(9, 0) },
			func(*publish.Report) string { return publish.FileName(8, 0) },
			func(*publish.Report) string { return publish.FileName(7, 0) },
		}, []int{1, 2, 3}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFailingCluster()
			q := stoppedQueue(t, w)
			for _, i := range tc.order {
				r := sandbox("web", i)
				place(t, filepath.Join(q.spool.dir, tc.names[i-1](r)), fileContent(r))
			}
			stop := runUntil(t, q)
			if got, want := eventually.Receive(t, "the status", w.written), status(t, sandbox("web", 3)); got != want {
				t.Errorf("written: %s", got)
			}
			leave(t, q.spool.dir, sandbox("other", 1)) // the next status to be written
			eventually.Receive(t, "the status of another pod", w.written)
			stop()
			nothingLeft(t, q, w)
		})
	}
}

// nothingLeft fails the test unless each report of a stopped queue was written exactly once and all files are removed.
func nothingLeft(t *testing.T, q *Writer, w *failingCluster) {
	t.Helper()
	if left := files(t, q.spool.dir); len(left) > 0 || len(w.written) > 0 || len(q.spool.files) > 0 {
		t.Errorf("left: %v; known: %v; %d written more than once", left, q.spool.files, len(w.written))
	}
}

// TestFileBeforeSocket checks that a report in a file which was not read yet is removed when a later report comes over
// the socket. If the file stayed until the later status is written, the next daemon could write the earlier one after a
// kill.
func TestFileBeforeSocket(t *testing.T) {
	t.Parallel()
	w := newFailingCluster()
	q := stoppedQueue(t, w)
	leave(t, q.spool.dir, sandbox("web", 1))
	leave(t, q.spool.dir, sandbox("db", 1))
	later := add(q, sandbox("web", 2))
	if left, want := files(t, q.spool.dir), []string{sandbox("db", 1).File()}; !slices.Equal(left, want) {
		t.Errorf("left: %v, want %v", left, want)
	}
	stop := runUntil(t, q)
	eventually.Receive(t, "the answer", later)
	got := []string{eventually.Receive(t, "a status", w.written), eventually.Receive(t, "the other status", w.written)}
	slices.Sort(got)
	if want := []string{status(t, sandbox("db", 1)), status(t, sandbox("web", 2))}; !slices.Equal(got, want) {
		t.Errorf("written: %q", got)
	}
	stop()
	nothingLeft(t, q, w)
}

// TestSocketAndFile checks that a report which came over the socket, and which the plugin left in a file because it got
// no answer, is written once, and that the file is removed.
func TestSocketAndFile(t *testing.T) {
	t.Parallel()
	for what, kept := range map[string]bool{"kept": true, "not kept": false} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newFailingCluster()
			q := stoppedQueue(t, w)
			j := q.take(sandbox("web", 1))
			if kept {
				q.keep(j)
			}
			leave(t, q.spool.dir, sandbox("web", 1))
			place(t, filepath.Join(q.spool.dir, "ns_web_u-web.json"), fileContent(sandbox("web", 1))) // an earlier plugin
			q.scanAndQueue()
			stop := runUntil(t, q)
			eventually.Receive(t, "the status", w.written)
			eventually.Receive(t, "the answer", j.attempted)
			stop()
			nothingLeft(t, q, w)
		})
	}
}

// TestNoStatus checks that a file without a status is set aside like a damaged one. Otherwise it would never be
// removed, and each scan would emit its events.
func TestNoStatus(t *testing.T) {
	t.Parallel()
	w := newFailingCluster()
	w.emitted = make(chan string, 10)
	q := stoppedQueue(t, w)
	contents := []string{
		"{}", "null", `{"command":"ADD","failure":{"tell":true,"message":"m"}}`,
		`{"command":"ADD","attached":[]}`,
	}
	for i, content := range contents {
		place(t, filepath.Join(q.spool.dir, publish.FileName(1, uint64(i))), []byte(content))
	}
	q.scanAndQueue()
	q.scanAndQueue()
	left := files(t, q.spool.dir)
	for i, name := range left {
		if want := publish.FileName(1, uint64(i)) + damaged; name != want {
			t.Errorf("%s: %s, want %s", contents[i], name, want)
		}
	}
	if len(left) != len(contents) || q.work.Len() > 0 {
		t.Errorf("left: %v; %d taken up", left, q.work.Len())
	}
}

// forbiddingCluster is a Cluster that accepts no status, and answers an event when the test allows it.
type forbiddingCluster struct {
	statuses chan struct{}
	events   chan error
}

func (f *forbiddingCluster) SetStatus(ctx context.Context, _ request.Pod, _, _ string, _ *publish.Unready) error {
	select {
	case f.statuses <- struct{}{}:
	case <-ctx.Done():
	}
	return errors.New("forbidden")
}

func (f *forbiddingCluster) Emit(ctx context.Context, _ request.Pod, _ publish.Event) error {
	select {
	case err := <-f.events:
		return err
	case <-ctx.Done():
		return publish.ErrRetry
	}
}

// TestEventsAreWrittenOnce checks that the events of a report whose status cannot be written are written once across
// daemons, whether that happens before or after the first attempt has failed, and wherever the report came from. The
// next daemon writes those that were not written.
func TestEventsAreWrittenOnce(t *testing.T) {
	t.Parallel()
	socket := func(_ *testing.T, q *Writer) { q.take(sandbox("web", 1)) }
	answered := func(_ *testing.T, q *Writer) { q.keep(q.take(sandbox("web", 1))) }
	file := func(t *testing.T, q *Writer) { leave(t, q.spool.dir, sandbox("web", 1)) }
	for from, begin := range map[string]func(*testing.T, *Writer){
		"socket": socket, "socket, answered": answered,
		"file": file,
	} {
		for _, when := range []string{"first", "later", "never"} {
			t.Run(from+", events written "+when, func(t *testing.T) {
				t.Parallel()
				w := &forbiddingCluster{statuses: make(chan struct{}), events: make(chan error)}
				q := stoppedQueue(t, w)
				begin(t, q)
				stop := runUntil(t, q)
				if when == "first" {
					w.events <- nil
				}
				eventually.Receive(t, "the first attempt", w.statuses)
				eventually.Receive(t, "the next attempt", w.statuses)
				if when == "later" {
					w.events <- nil
				}
				if when != "never" {
					awaitEventsWritten(t, filepath.Join(q.spool.dir, sandbox("web", 1).File()))
				}
				stop()
				next := newFailingCluster()
				next.emitted = make(chan string, 10)
				_, stop = start(t, next, q.spool.dir)
				eventually.Receive(t, "the status by the next daemon", next.written)
				stop()
				if (len(next.emitted) > 0) != (when == "never") {
					t.Errorf("the next daemon writes %d events", len(next.emitted))
				}
			})
		}
	}
}

// awaitEventsWritten waits until a file records that the events are written.
func awaitEventsWritten(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(eventually.Timeout); ; time.Sleep(time.Millisecond) {
		r, _, err := newSpool(filepath.Dir(path), slog.New(slog.DiscardHandler)).read(filepath.Base(path))
		if err == nil && r.EventsWritten {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%+v, %v: the events are not recorded as written", r, err)
		}
	}
}

// TestWatching checks that a writer reports whether it can watch the directory of reports.
func TestWatching(t *testing.T) {
	t.Parallel()
	parent := filepath.Join(t.TempDir(), "run")
	place(t, parent, nil) // a file in place of the parent directory
	q, stop := start(t, newFailingCluster(), filepath.Join(parent, "reports"))
	defer stop()
	if q.Watching() {
		t.Error("a directory that cannot be created is watched")
	}
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the directory is watched", q.Watching)
	// The writer makes the directory again as soon as it is removed.
	eventually.True(t, "a file is in place of the parent directory", func() bool {
		return os.RemoveAll(parent) == nil && os.WriteFile(parent, nil, 0o600) == nil
	})
	eventually.True(t, "the directory is not watched any more", func() bool { return !q.Watching() })
}

// TestSpoolIsALink checks that a link in place of the directory of reports is not followed, neither at the start nor
// later.
func TestSpoolIsALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside, reports := filepath.Join(dir, "outside"), filepath.Join(dir, "reports")
	planted := sandbox("planted", 1)
	leave(t, outside, planted)
	if err := os.Symlink(outside, reports); err != nil {
		t.Fatal(err)
	}
	w := newFailingCluster()
	_, stop := start(t, w, reports)
	defer stop()
	eventually.True(t, "a directory in place of the link", func() bool {
		info, err := os.Lstat(reports)
		return err == nil && info.IsDir()
	})
	good := sandbox("good", 2)
	leave(t, reports, good)
	if got := eventually.Receive(t, "the status of a report", w.written); got != status(t, good) {
		t.Errorf("written: %s", got)
	}
	if got := files(t, outside); !slices.Equal(got, []string{planted.File()}) {
		t.Errorf("outside: %v", got)
	}
}
