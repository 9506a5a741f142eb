package hotplug

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

const attachedStatus = `[{"name":"cluster","interface":"eth0","default":true}]`

// pod returns a pod that requests networks and has the cluster network.
func pod(name, networks string) *plan.Pod {
	return &plan.Pod{
		Ref: plan.Ref{Namespace: "team", Name: name}, UID: name + "-uid",
		Annotations: map[string]string{netsel.Networks: networks, netsel.Status: attachedStatus},
	}
}

// inTime runs a test with a running queue and a clock that advances when everything waits.
func inTime(t *testing.T, test func(t *testing.T, q *Queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := New(clock.RealClock{}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx) }()
		test(t, q)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// next returns the names of the pods that are handed out within a time, and after which time.
func (q *Queue) next(t *testing.T, within time.Duration) (names []string, after time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	start := time.Now()
	for _, p := range q.Next(ctx) {
		names = append(names, p.Name)
	}
	return names, time.Since(start)
}

// hands checks what is handed out within an hour, which is longer than each pause.
func (q *Queue) hands(t *testing.T, want ...string) (after time.Duration) {
	t.Helper()
	got, after := q.next(t, time.Hour)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("handed out: %v, want %v", got, want)
	}
	return after
}

func (q *Queue) done(t *testing.T, p *plan.Pod, failure string) {
	t.Helper()
	if err := q.Done(p.Identity(), failure); err != nil {
		t.Error(err)
	}
}

var web, db = pod("web", "lan"), pod("db", "lan")

// handings are the cases of TestQueue: when a pod is handed out.
var handings = map[string]func(t *testing.T, q *Queue){
	"until its result is known": func(t *testing.T, q *Queue) {
		t.Helper()
		q.Observe(web)
		q.hands(t, "web")
		q.hands(t, "web") // to the runner that follows a killed one
		q.done(t, web, "")
		q.hands(t)
	},
	"those of a lost runner with later ones": func(t *testing.T, q *Queue) {
		t.Helper()
		q.Observe(web)
		q.hands(t, "web")
		q.Observe(db)
		synctest.Wait()
		q.hands(t, "web", "db")
	},
	"not without a network status": func(t *testing.T, q *Queue) {
		t.Helper()
		starting := pod("web", "lan")
		delete(starting.Annotations, netsel.Status)
		q.Observe(starting)
		q.hands(t)
	},
	"not again while it is as it was settled": func(t *testing.T, q *Queue) {
		t.Helper()
		q.Observe(web)
		q.hands(t, "web")
		q.done(t, web, "")
		q.Observe(web)
		q.hands(t)
		q.Observe(pod("web", "lan, wan"))
		q.hands(t, "web")
	},
	"again if it changes while it is handed out": func(t *testing.T, q *Queue) {
		t.Helper()
		q.Observe(web)
		q.hands(t, "web")
		q.Observe(pod("web", "wan"))
		q.done(t, web, "")
		q.hands(t, "web")
		q.done(t, web, "")
		q.Observe(pod("web", "wan"))
		q.hands(t)
	},
	"when its annotation changes, although its networks are the same": func(t *testing.T, q *Queue) {
		t.Helper()
		p := pod("web", "lan")
		p.Annotations[netsel.Status] = `[{"name":"cluster","default":true},{"name":"team/lan","interface":"net1"}]`
		q.Observe(p)
		q.hands(t)
		p.Annotations[netsel.Networks] = `[{"name":"lan","mac":"02:00:00:00:00:01"}]`
		q.Observe(p)
		q.hands(t, "web")
		q.done(t, p, "")
		q.Observe(p)
		q.hands(t)
	},
	"when its annotation changes before its network status is seen": func(t *testing.T, q *Queue) {
		t.Helper()
		starting := pod("web", "lan, without an interface")
		delete(starting.Annotations, netsel.Status)
		q.Observe(starting)
		edited := pod("web", "lan")
		delete(edited.Annotations, netsel.Status)
		q.Observe(edited)
		q.hands(t)
		attached := pod("web", "lan")
		attached.Annotations[netsel.Status] = `[{"name":"cluster","default":true},{"name":"team/lan","interface":"net1"}]`
		q.Observe(attached)
		q.hands(t, "web")
		q.done(t, attached, "")
		q.Observe(attached)
		q.hands(t)
	},
	"when its readiness gate says that a network is missing, once": func(t *testing.T, q *Queue) {
		t.Helper()
		p := pod("web", "")
		q.Observe(p)
		q.hands(t)
		unready := *p
		unready.Unready = true
		q.Observe(&unready)
		q.hands(t, "web")
		q.done(t, p, "")
		q.Observe(&unready)
		q.hands(t)
		q.Observe(p)
		q.hands(t)
	},
	"for a runner that waits": func(t *testing.T, q *Queue) {
		t.Helper()
		time.AfterFunc(time.Minute, func() { q.Observe(web) })
		if after := q.hands(t, "web"); after != time.Minute {
			t.Errorf("after %s", after)
		}
	},
	"not for longer than the runner waits": func(t *testing.T, q *Queue) {
		t.Helper()
		for _, limit := range []time.Duration{0, time.Second} {
			if got, after := q.next(t, limit); got != nil || after != limit {
				t.Errorf("%v after %s, want none after %s", got, after, limit)
			}
		}
	},
	"also when it is gone": func(t *testing.T, q *Queue) {
		t.Helper()
		q.Observe(web)
		q.hands(t, "web")
		q.Gone(web)
		q.done(t, web, "")
		q.hands(t)
		if len(q.seen) > 0 {
			t.Errorf("%d pods are kept", len(q.seen))
		}
		q.Observe(web) // another pod, whose annotations are equal
		q.hands(t, "web")
	},
	"only the result of a pod that was handed out counts": func(t *testing.T, q *Queue) {
		t.Helper()
		q.Observe(web)
		q.hands(t, "web")
		for _, p := range []request.Pod{{}, db.Identity(), {Namespace: "team", Name: "web", UID: "other"}} {
			if q.Done(p, "") == nil {
				t.Errorf("the result of %+v is accepted", p)
			}
		}
		q.hands(t, "web")
		q.done(t, web, "")
		if q.Done(web.Identity(), "late") == nil {
			t.Error("a second result is accepted")
		}
		q.hands(t)
	},
}

// TestQueue checks when a pod is handed out.
func TestQueue(t *testing.T) {
	t.Parallel()
	for name, test := range handings {
		t.Run(name, func(t *testing.T) { t.Parallel(); inTime(t, test) })
	}
}

// TestBackOff checks the pauses of a pod whose networks cannot be changed. Success, and nothing else, ends them, and a
// change of the pod is not delayed by them.
func TestBackOff(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		t.Helper()
		web := pod("web", "lan")
		q.Observe(web)
		q.hands(t, "web")
		for n, want := range []time.Duration{
			time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second,
			64 * time.Second, 128 * time.Second, 256 * time.Second, lastRetry, lastRetry,
		} {
			q.done(t, web, "no")
			if got := q.hands(t, "web"); got != want {
				t.Errorf("failure %d: handed out after %s, want %s", n, got, want)
			}
		}
		q.done(t, web, "no")
		q.Observe(pod("web", "wan"))
		if got := q.hands(t, "web"); got != 0 {
			t.Errorf("changed: handed out after %s", got)
		}
		q.done(t, web, "")
		q.hands(t, "web") // the attempt that was due
		q.done(t, web, "")
		q.Observe(web)
		q.hands(t, "web")
		q.done(t, web, "no")
		if got := q.hands(t, "web"); got != firstRetry {
			t.Errorf("after a success: handed out after %s", got)
		}
	})
}

// TestFailedCounts checks that a pod whose networks cannot be changed counts in the pauses, too, as the alert
// MultusHotPlugStuck requires, and starts no runner then. It counts once, until a success or until it is gone.
func TestFailedCounts(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		t.Helper()
		counts := func(want float64, what string) {
			t.Helper()
			synctest.Wait()
			if got := q.Waiting(); got != want {
				t.Errorf("%s: %v pods wait, want %v", what, got, want)
			}
		}
		q.Observe(web)
		counts(1, "queued")
		for range 3 {
			q.hands(t, "web")
			counts(1, "handed out")
			q.done(t, web, "no")
			counts(1, "failed")
			time.Sleep(firstRetry / 2)
			if q.Unattended() || q.RunnerUp() != 0 {
				t.Error("there is work in a pause")
			}
		}
		q.hands(t, "web")
		q.done(t, web, "")
		counts(0, "changed")
		q.Observe(db)
		q.hands(t, "db")
		q.done(t, db, "no")
		q.Gone(db)
		counts(0, "gone")
	})
}

// TestMany checks that many pods are handed out in parts, each of them as often as it takes and in its order.
func TestMany(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		t.Helper()
		const n = maxHandedOut + 8
		pods := map[string]*plan.Pod{}
		var names []string
		for i := range n {
			name := fmt.Sprintf("web-%d", i)
			pods[name], names = pod(name, "lan"), append(names, name)
			q.Observe(pods[name])
		}
		synctest.Wait()
		if got := q.Waiting(); got != n {
			t.Errorf("%v pods wait, want %d", got, n)
		}
		for _, part := range [][]string{names[:maxHandedOut], names[:maxHandedOut]} {
			q.hands(t, part...)
		}
		for _, name := range names[:maxHandedOut] {
			q.done(t, pods[name], "")
		}
		q.hands(t, names[maxHandedOut:]...)
	})
}

// TestUnattended checks when a runner has to be started: there is work, and no runner was heard of for a while.
func TestUnattended(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		t.Helper()
		web := pod("web", "lan")
		is := func(want bool, what string) {
			t.Helper()
			synctest.Wait()
			if got := q.Unattended(); got != want {
				t.Errorf("%s: %t", what, got)
			}
		}
		is(false, "no work")
		q.Observe(web)
		is(true, "work, and there was no runner yet")
		q.hands(t, "web")
		is(false, "a runner works")
		time.Sleep(silence)
		is(true, "the runner is silent")
		q.done(t, web, "no")
		is(false, "the runner has a result, and the pause has begun")
		go q.next(t, time.Hour)
		synctest.Wait()
		q.Observe(pod("db", "lan"))
		is(false, "the runner that waited has the pod")
	})
}
