package podstatus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/source/kube"
	"multus/internal/testutil/eventually"
)

// refusingServer is an API server that rejects the statuses of the pods "bad-…" with code, and accepts all others.
type refusingServer struct {
	code     atomic.Int32
	mu       sync.Mutex
	requests map[string]int // PATCH, by pod
	events   map[string]int // by pod
	bad      atomic.Int32
}

func (s *refusingServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodPost {
		var e struct {
			Reason         string
			InvolvedObject struct{ Name string }
		}
		_ = json.Unmarshal(body, &e)
		s.mu.Lock()
		s.events[e.InvolvedObject.Name+" "+e.Reason]++
		s.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "{}")
		return
	}
	pod, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/ns/pods/"), "/")
	code := int(s.code.Load())
	bad := strings.HasPrefix(pod, "bad-")
	if !bad {
		code = http.StatusOK
	}
	if r.Method == http.MethodPatch {
		s.mu.Lock()
		s.requests[pod]++
		s.mu.Unlock()
		if bad {
			s.bad.Add(1)
		}
	}
	w.WriteHeader(code)
	if code == http.StatusOK {
		_, _ = io.WriteString(w, "{}")
		return
	}
	_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"","code":%d}`,
		code)
}

func (s *refusingServer) count(pod string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[pod]
}

func newRefusingServer(t *testing.T, code int) (*refusingServer, *kube.Client) {
	t.Helper()
	s := &refusingServer{requests: map[string]int{}, events: map[string]int{}}
	s.code.Store(int32(code))
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c, err := kube.New(&kube.Config{Host: server.URL, QPS: 400, Burst: 400})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// TestRefusedForGood checks that a status which the API server rejects for good is tried once, for every such code. The
// status of another pod does not wait for a thousand rejected ones, and no files or reports in memory remain.
func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	for code, n := range map[int]int{
		http.StatusUnprocessableEntity: 1000, http.StatusBadRequest: 5,
		http.StatusNotFound: 5, http.StatusRequestEntityTooLarge: 5,
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			s, c := newRefusingServer(t, code)
			var log safeBuffer
			q := newWriter(c, filepath.Join(t.TempDir(), "reports"), slog.New(slog.NewTextHandler(&log, nil)))
			stop := runUntil(t, q)
			for i := range n {
				q.take(sandbox(fmt.Sprint("bad-", i), 1))
			}
			eventually.True(t, "each status is tried", func() bool { return int(s.bad.Load()) >= n })
			begun := time.Now()
			for i := range 20 {
				eventually.Receive(t, "the answer of a good pod", add(q, sandbox(fmt.Sprint("good-", i), 1)))
				if s.count(fmt.Sprint("good-", i)) != 1 {
					t.Errorf("good-%d is not written", i)
				}
			}
			t.Logf("20 good pods were written in %s", time.Since(begun))
			eventually.True(t, "no status waits", func() bool { return q.Waiting() == 0 })
			if code != http.StatusNotFound { // the pod is deleted, so that it gets no event
				eventually.True(t, "the event", func() bool {
					s.mu.Lock()
					defer s.mu.Unlock()
					return s.events["bad-0 NetworkStatusNotWritten"] == 1
				})
			}
			stop()
			if got := int(s.bad.Load()); got != n {
				t.Errorf("%d requests for %d statuses that are refused", got, n)
			}
			if left := files(t, q.spool.dir); len(left) > 0 {
				t.Errorf("%d files are left", len(left))
			}
			if got := strings.Count(log.String(), "pod=ns/bad-0 "); got != 1 && code != http.StatusNotFound {
				t.Errorf("%d log lines about one pod", got)
			}
		})
	}
}

// safeBuffer is a buffer for concurrent writers.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestForbidden checks that while the permission is missing, only a few statuses are tried after each pause, and that
// all statuses are written once it is granted. The status of a sandbox that is deleted meanwhile is dropped.
func TestForbidden(t *testing.T) {
	t.Parallel()
	const n = 40
	s, c := newRefusingServer(t, http.StatusForbidden)
	now := clocktesting.NewFakeClock(time.Now())
	q := newFakeWriter(c, filepath.Join(t.TempDir(), "reports"), now)
	stop := runUntil(t, q)
	for i := range n {
		r := sandbox(fmt.Sprint("bad-", i), 1)
		r.ContainerID = fmt.Sprint("container-", i)
		eventually.Receive(t, "the first attempt", add(q, r))
	}
	if got := s.bad.Load(); got != n {
		t.Errorf("%d requests for %d statuses", got, n)
	}
	for i := range n / 2 {
		q.DropDeleted(request.Pod{Namespace: "ns", Name: fmt.Sprint("bad-", i)}, fmt.Sprint("container-", i), 0)
	}
	if got, left := q.Waiting(), len(files(t, q.spool.dir)); got != n/2 || left != n/2 {
		t.Errorf("after %d DELs %v statuses wait, %d files", n/2, got, left)
	}
	stop()

	q = newFakeWriter(c, q.spool.dir, now) // the next daemon
	stop = runUntil(t, q)
	defer stop()
	eventually.True(t, "each status is tried again", func() bool { return s.bad.Load() >= n+n/2 })
	s.code.Store(http.StatusOK)
	eventually.True(t, "all statuses are written", func() bool {
		now.Step(forbiddenPause)
		return q.Waiting() == 0 && len(files(t, q.spool.dir)) == 0
	})
}

// TestSpoolIsLimited checks that the number and the size of the files of waiting reports are limited, and that the
// largest reports are given up first.
func TestSpoolIsLimited(t *testing.T) {
	t.Parallel()
	w := newFailingCluster()
	q := stoppedQueue(t, w)
	const large = maxSpool / 10
	for i := range 20 {
		r := sandbox(fmt.Sprint("large-", i), 1)
		r.Attached[0].DeviceInfo = json.RawMessage(`"` + strings.Repeat("x", large) + `"`)
		leave(t, q.spool.dir, r)
		leave(t, q.spool.dir, sandbox(fmt.Sprint("small-", i), 1))
	}
	q.scanAndQueue()
	left := map[string]int{}
	for _, name := range files(t, q.spool.dir) {
		r, _, err := q.spool.read(name)
		if err != nil {
			t.Fatal(err)
		}
		left[strings.Split(r.Pod.Name, "-")[0]]++
	}
	if left["small"] != 20 || left["large"] == 0 || left["large"] > 9 {
		t.Errorf("left: %v", left)
	}
	q = stoppedQueue(t, w)
	for i := range maxWaiting + 50 {
		q.take(sandbox(fmt.Sprint("p-", i), 1))
	}
	if got := q.Waiting(); got != maxWaiting {
		t.Errorf("%v reports wait, want %d", got, maxWaiting)
	}
}

// TestArrivalDecides checks that the order of arrival decides which report of a pod is the latest, even if the clock
// was set back. A report that arrives twice, by whatever way, changes nothing and causes no second event.
func TestArrivalDecides(t *testing.T) {
	t.Parallel()
	w := newFailingCluster()
	w.emitted = make(chan string, 10)
	q := stoppedQueue(t, w)
	first, later := sandbox("web", 2), sandbox("web", 1) // the clock was set back by one
	q.keep(q.take(first))
	q.take(later)
	stop := runUntil(t, q)
	if got := eventually.Receive(t, "the status", w.written); got != status(t, later) {
		t.Errorf("written: %s", got)
	}
	eventually.Receive(t, "the event", w.emitted)
	for _, again := range []*publish.Report{sandbox("web", 2), sandbox("web", 1)} {
		leave(t, q.spool.dir, again)
		eventually.Receive(t, "the answer", add(q, again))
	}
	leave(t, q.spool.dir, sandbox("other", 1)) // the next status to be written
	if got := eventually.Receive(t, "the status of another pod", w.written); got != status(t, sandbox("other", 1)) {
		t.Errorf("written: %s", got)
	}
	eventually.Receive(t, "the event of another pod", w.emitted)
	stop()
	nothingLeft(t, q, w)
	if len(w.emitted) > 0 {
		t.Errorf("%d more events", len(w.emitted))
	}
}

// TestFileThenSocket checks that a report which came in a file and then over the socket is written once, with its
// events once.
func TestFileThenSocket(t *testing.T) {
	t.Parallel()
	for _, written := range []bool{true, false} {
		t.Run(fmt.Sprint("written before: ", written), func(t *testing.T) {
			t.Parallel()
			w := newFailingCluster()
			w.emitted = make(chan string, 10)
			q := stoppedQueue(t, w)
			leave(t, q.spool.dir, sandbox("web", 1))
			if !written {
				q.scanAndQueue()
				q.take(sandbox("web", 1))
			}
			stop := runUntil(t, q)
			eventually.Receive(t, "the status", w.written)
			eventually.Receive(t, "the event", w.emitted)
			eventually.Receive(t, "the answer", add(q, sandbox("web", 1)))
			add(q, sandbox("other", 1))
			eventually.Receive(t, "the status of another pod", w.written)
			eventually.Receive(t, "the event of another pod", w.emitted)
			stop()
			nothingLeft(t, q, w)
			if len(w.emitted) > 0 {
				t.Errorf("%d more events", len(w.emitted))
			}
		})
	}
}

// TestDelRightAfterAdd checks that the DEL of a sandbox drops its report although the daemon has not seen the file yet.
func TestDelRightAfterAdd(t *testing.T) {
	t.Parallel()
	w := newFailingCluster()
	q := stoppedQueue(t, w)
	r := sandbox("web", 100)
	leave(t, q.spool.dir, r)
	q.DropDeleted(r.Pod, r.ContainerID, r.Time+1)
	if left := files(t, q.spool.dir); len(left) > 0 || q.Waiting() != 0 {
		t.Errorf("%v statuses wait, left: %v", q.Waiting(), left)
	}
	defer runUntil(t, q)()
	next := sandbox("web", 101)
	leave(t, q.spool.dir, next)
	if got := eventually.Receive(t, "a status", w.written); got != status(t, next) {
		t.Errorf("written: %s, want only that of the next sandbox", got)
	}
}

// TestDelOlderThanAdd checks that a DEL which waited on the socket drops only the status of an earlier ADD, not that of
// a later ADD of the same sandbox whose report came in a file.
func TestDelOlderThanAdd(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		at   int64
		left float64
	}{{"a DEL before the ADD", 99, 1}, {"a DEL after the ADD", 101, 0}, {"a DEL without a time", 0, 0}} {
		q := stoppedQueue(t, newFailingCluster())
		r := sandbox("web", 100)
		r.ContainerID = "c"
		add(q, r)
		q.DropDeleted(r.Pod, "c", tc.at)
		if got := q.Waiting(); got != tc.left {
			t.Errorf("%s: %v statuses wait, want %v", tc.name, got, tc.left)
		}
	}
}
