package planserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"multus/internal/agent/resync"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	"multus/internal/testutil/eventually"
	wirev1 "multus/wire/v1"
)

// onePod is an API server with one pod.
type onePod struct{ pod *plan.Pod }

func (p onePod) Pod(context.Context, plan.Ref) (*plan.Pod, error) { return p.pod, nil }

// TestObserved checks the answers to what a runner observes (behaviour R25, R28): an interface that is lost is reported
// when it is observed a second time, and is to be attached again as long as it is lost.
func TestObserved(t *testing.T) {
	t.Parallel()
	s, q := newRunningServer(t)
	const sandbox = `{"pod":{"namespace":"team","name":"db","uid":"v"},"containerID":"c","netns":"/n",` +
		`"attached":[{"name":"team/lan","ifName":"net1","result":{"cniVersion":"1.0.0",` +
		`"interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","sandbox":"/n"}]}}]}`
	pod := &plan.Pod{Ref: plan.Ref{Namespace: "team", Name: "db"}, UID: "v", Annotations: map[string]string{
		netsel.Status: `[{"name":"team/lan","interface":"net1","mac":"02:00:00:00:00:01"}]`,
	}}
	var reasons []string
	s.resync = resync.New(resync.Options{
		Every: time.Minute, Reattach: true, Pods: onePod{pod}, Next: q.ObserveIn, Log: slog.New(slog.DiscardHandler),
		Busy: func(request.Pod) bool { return false },
		Report: func(_ context.Context, r *publish.Report) {
			for _, e := range r.Events {
				reasons = append(reasons, e.Reason)
			}
		},
	})
	s.resync.Observe(pod)
	q.ObserveIn(0)
	if _, got := ask(t, s, "GET", wirev1.PathWork, ""); !strings.Contains(got, `"observe":true`) {
		t.Errorf("work: %s", got)
	}
	const again = `{"reattach":[{"pod":{"namespace":"team","name":"db","uid":"v"},"containerID":"c","ifNames":["net1"]}]}`
	for i, want := range []string{"{}", again, again} {
		if code, got := ask(t, s, "POST", wirev1.PathObserved, `{"sandboxes":[`+sandbox+`]}`); code != http.StatusOK || got != want {
			t.Errorf("%d: %d, %s, want %s", i, code, got, want)
		}
	}
	if fmt.Sprint(reasons) != "[InterfaceLost]" {
		t.Errorf("events %q", reasons)
	}
	if !s.resync.Lost("c", "net1") {
		t.Error("the comparison with the annotation takes the status for incomplete")
	}
	for _, body := range []string{"", "[]", `{"sandboxes":{}}`, `{"sandboxes":[{"interfaces":[{"addresses":[{"address":"x"}]}]}]}`} {
		if code, _ := ask(t, s, "POST", wirev1.PathObserved, body); code != http.StatusBadRequest {
			t.Errorf("%s: %d", body, code)
		}
	}
	if code, _ := ask(t, s, "GET", wirev1.PathObserved, ""); code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", code)
	}
}

// TestObservedPending checks that a daemon that does not compare network statuses requests one observation, and queues
// the pods in which a change was interrupted (behaviour R33).
func TestObservedPending(t *testing.T) {
	t.Parallel()
	s, q := newRunningServer(t)
	settled := &plan.Pod{
		Ref: plan.Ref{Namespace: "team", Name: "late"}, UID: "w", Annotations: map[string]string{netsel.Status: "[{}]"},
	}
	q.ObserveIn(0)
	for _, step := range []struct {
		post    string
		observe bool
	}{
		{`{"sandboxes":[],"more":true}`, true},
		{`{"sandboxes":[],"pending":[{"namespace":"team","name":"late","uid":"of the runtime"}]}`, false},
	} {
		if code, got := ask(t, s, "POST", wirev1.PathObserved, step.post); code != http.StatusOK || got != "{}" {
			t.Errorf("%s: %d, %s", step.post, code, got)
		}
		_, got := ask(t, s, "GET", wirev1.PathWork, "")
		if strings.Contains(got, `"observe":true`) != step.observe || strings.Contains(got, "late") {
			t.Errorf("work after %s: %s", step.post, got)
		}
	}
	q.Observe(settled) // its watch begins later
	eventually.True(t, "the pod is ready", func() bool { return q.Waiting() == 2 })
	if _, got := ask(t, s, "GET", wirev1.PathWork, ""); !strings.Contains(got, `"name":"late","uid":"w"`) {
		t.Errorf("work %s", got)
	}
	s.hotPlug = nil
	code, got := ask(t, s, "POST", wirev1.PathObserved, "{}")
	if code != http.StatusNotFound || !strings.Contains(got, "set hotPlug") {
		t.Errorf("without hotPlug: %d, %s", code, got)
	}
}
