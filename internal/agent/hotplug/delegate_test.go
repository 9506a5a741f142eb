package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"multus/internal/engine/plan"
)

// answered is the outcome of a delegation and the time that it took.
type answered struct {
	result json.RawMessage
	err    error
	after  time.Duration
}

// delegate requests a network in the background.
func (q *Queue) delegate(ctx context.Context, id, command string) <-chan answered {
	ended := make(chan answered, 1)
	go func() {
		start := time.Now()
		d := &Delegation{ID: id, Command: command, Pod: web.Identity(), IfName: "net1"}
		if command == "ADD" {
			d.Wanted = &plan.Wanted{IfName: "net1"}
		}
		result, err := q.Delegate(ctx, d)
		ended <- answered{result, err, time.Since(start)}
	}()
	synctest.Wait()
	return ended
}

// handed checks which delegations a runner gets within an hour.
func (q *Queue) handed(t *testing.T, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if len(want) == 0 {
		var none context.CancelFunc
		ctx, none = context.WithTimeout(ctx, 0)
		defer none()
	}
	if pods := q.Next(ctx); len(pods) > 0 {
		t.Errorf("pods: %v", pods)
	}
	var got []string
	for _, d := range q.Delegations() {
		got = append(got, d.ID)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("handed out: %v, want %v", got, want)
	}
}

// fails checks that a delegation fails after a time.
func fails(t *testing.T, ended <-chan answered, after time.Duration, words string) {
	t.Helper()
	if got := <-ended; got.err == nil || !strings.Contains(got.err.Error(), words) || got.after != after {
		t.Errorf("%v after %s, want %q after %s", got.err, got.after, words, after)
	}
}

// delegations are the cases of TestDelegations.
var delegations = map[string]func(t *testing.T, q *Queue){
	"a waiting runner gets it at once, and its client the result": func(t *testing.T, q *Queue) {
		t.Helper()
		handed := make(chan struct{})
		go func() { q.handed(t, "a"); close(handed) }()
		synctest.Wait()
		ended := q.delegate(t.Context(), "a", "ADD")
		<-handed
		if q.Wanted("a") == nil || q.Wanted("b") != nil {
			t.Error("the network of another request is wanted")
		}
		if err := q.Delegated("a", json.RawMessage("{}"), nil); err != nil {
			t.Error(err)
		}
		if got := <-ended; string(got.result) != "{}" || got.err != nil || got.after != 0 {
			t.Errorf("%+v", got)
		}
		if q.Wanted("a") != nil || q.Delegated("a", nil, nil) == nil || q.Waiting() != 0 {
			t.Error("it is kept")
		}
	},
	"a failure": func(t *testing.T, q *Queue) {
		t.Helper()
		ended := q.delegate(t.Context(), "a", "ADD")
		q.handed(t, "a")
		_ = q.Delegated("a", nil, errors.New("no address"))
		fails(t, ended, 0, "no address")
	},
	"it asks for a runner": func(t *testing.T, q *Queue) {
		t.Helper()
		ended := q.delegate(t.Context(), "a", "DEL")
		if !q.Unattended() || q.Waiting() != 1 || q.RunnerUp() != 0 {
			t.Error("no runner is asked for")
		}
		q.handed(t, "a")
		if q.Unattended() || q.RunnerUp() != 1 {
			t.Error("the runner is not seen")
		}
		_ = q.Delegated("a", nil, nil)
		<-ended
	},
	"without a runner it is refused, and not handed out later": func(t *testing.T, q *Queue) {
		t.Helper()
		fails(t, q.delegate(t.Context(), "a", "ADD"), TakeLimit, "no runner on this node took the request within 30s")
		q.handed(t)
	},
	"it is dropped if its client leaves": func(t *testing.T, q *Queue) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended := q.delegate(ctx, "a", "ADD")
		cancel()
		<-ended
		q.handed(t)
	},
	"it is finished if its client leaves later": func(t *testing.T, q *Queue) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended := q.delegate(ctx, "a", "ADD")
		q.handed(t, "a")
		cancel()
		<-ended
		if q.Wanted("a") == nil {
			t.Error("the runner cannot finish it")
		}
		q.handed(t) // but not by another runner
		if q.Wanted("a") != nil || q.Waiting() != 0 {
			t.Error("it is kept")
		}
	},
	"it is handed out again once": func(t *testing.T, q *Queue) {
		t.Helper()
		ended := q.delegate(t.Context(), "a", "ADD")
		q.handed(t, "a")
		time.Sleep(time.Second)
		q.handed(t, "a") // to the runner that follows a killed one
		time.Sleep(time.Second)
		q.handed(t)
		fails(t, ended, 2*time.Second, "killed, or is of an earlier version")
	},
	"a runner that does not answer": func(t *testing.T, q *Queue) {
		t.Helper()
		ended := q.delegate(t.Context(), "a", "ADD")
		q.handed(t, "a")
		fails(t, ended, resultLimit, "longer than")
		if !q.Unattended() {
			t.Error("no other runner is asked for")
		}
	},
	"too many": func(t *testing.T, q *Queue) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		for i := range maxDelegations {
			q.delegate(ctx, fmt.Sprint(i), "ADD")
		}
		fails(t, q.delegate(ctx, "more", "ADD"), 0, "64 other requests wait")
		_ = q.Next(ctx)
		if got := len(q.Delegations()); got != maxHandedOut {
			t.Errorf("%d are handed out together", got)
		}
		cancel()
		synctest.Wait()
	},
	"the pod is compared afterwards": func(t *testing.T, q *Queue) {
		t.Helper()
		q.Observe(web)
		q.hands(t, "web")
		q.done(t, web, "")
		for command, want := range map[string][]string{"ADD": {"web"}, "DEL": {"web"}, "CHECK": nil} {
			ended := q.delegate(t.Context(), command, command)
			q.handed(t, command)
			_ = q.Delegated(command, nil, nil)
			<-ended
			synctest.Wait()
			if q.hands(t, want...); want != nil {
				q.done(t, web, "")
			}
		}
	},
}

// TestDelegations checks when requests for single networks are handed out and answered (behaviour R23).
func TestDelegations(t *testing.T) {
	t.Parallel()
	for name, test := range delegations {
		t.Run(name, func(t *testing.T) { t.Parallel(); inTime(t, test) })
	}
}

// TestDelegationAtTheEnd checks that no client waits for a daemon that ends.
func TestDelegationAtTheEnd(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		t.Helper()
		ended := q.delegate(context.WithoutCancel(t.Context()), "a", "ADD")
		t.Cleanup(func() {
			fails(t, ended, 0, "the daemon ends")
			fails(t, q.delegate(context.Background(), "b", "ADD"), 0, "the daemon ends")
		})
	})
}
