// Package thin is the host of the multus plugin: the same engine as multus-shim, with the planner and the
// publisher in process, from the API server or from a directory of files. Only cmd/multus imports it.
package thin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/host/plugin"
	"multus/internal/netsel"
)

// publishLimit bounds the attempt to write status and events: there is no daemon to do it later.
const publishLimit = 2 * time.Second

const (
	// statusLimit bounds the attempts to write a status whose loss fails the ADD.
	statusLimit = 10 * time.Second
	// firstPause and longPause are between these attempts.
	firstPause = 200 * time.Millisecond
	longPause  = time.Second
)

// Host returns the thin plugin.
func Host() plugin.Host {
	return plugin.Host{
		Name: "multus", LogToStderr: true,
		Connect: func(conf *config.Plugin, log *slog.Logger) plugin.Connection {
			t := &thin{log: log}
			t.sources = sync.OnceValues(func() (*sources, error) { return connect(conf, os.Getenv, t.log) })
			return t
		},
	}
}

// Last and Remember: a process that ends after one answer remembers none.
func (t *thin) Last(context.Context, []byte) (error, bool) { return nil, false }

// Remember does nothing; see Last.
func (t *thin) Remember(context.Context, []byte, error) {}

// thin plans and publishes in process. Its sources are opened when they are first used.
type thin struct {
	log     *slog.Logger
	sources func() (*sources, error)
}

var _ plugin.Connection = (*thin)(nil)

// Plan resolves in process. A plain pod needs no source, and a source that cannot be opened is no matter
// for it (architecture.md, decision 2).
func (t *thin) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	r := &plan.Resolver{Log: t.log, Missing: t.missing(ctx), PhysicalFunction: device.PhysicalFunction}
	s, err := t.sources()
	switch {
	case err == nil:
		r.Networks, r.Pods, r.Devices = s.networks, s.pods, s.devices
	case errors.Is(err, errNoSource), plan.Plain(req, conf):
	default:
		return nil, fault.Wrap(err, fault.TryAgain, "correct kubeconfig in the CNI configuration, or the file that it names",
			"error getting k8s client")
	}
	return r.Plan(ctx, req, conf)
}

// missing emits the event for a definition that cannot be had (behaviour.md B8).
func (t *thin) missing(ctx context.Context) func(string, *plan.Pod, *plan.MissingNetworkError) {
	return func(containerID string, pod *plan.Pod, m *plan.MissingNetworkError) {
		missing := publish.Missing(publish.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}, containerID,
			m.Error())
		if err := t.Publish(ctx, missing); err != nil {
			t.log.Error("event not written", "container", containerID, "err", err)
		}
	}
}

// Publish writes status and events side by side, within publishLimit (behaviour.md A45 [quirk]: events are lost today
// when the process ends). There is no daemon to write a status later, so that one which cannot be written is lost. If
// the ADD fails for that, it is tried for statusLimit, and the events come after it: nothing was attached if it is
// lost.
func (t *thin) Publish(ctx context.Context, report *publish.Report) error {
	if len(report.Attached) == 0 && report.Failure == nil {
		return nil // timings are for the daemon
	}
	s, err := t.sources()
	if errors.Is(err, errNoSource) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("status not written: %w", err)
	}
	limit := publishLimit
	if report.Needed {
		limit = statusLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("took longer than %s", limit))
	defer cancel()
	if report.Needed {
		if err = writeStatus(ctx, s.cluster, report); err != nil {
			report = lost(report, err)
		}
		t.writeEvents(context.WithoutCancel(ctx), s.cluster, report)
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { t.writeEvents(ctx, s.cluster, report) })
	err = writeStatus(ctx, s.cluster, report)
	wg.Wait()
	return err
}

// lost is the report of an ADD that is undone because its status is lost.
func lost(r *publish.Report, err error) *publish.Report {
	return &publish.Report{
		Command: r.Command, Pod: r.Pod, ContainerID: r.ContainerID, Time: r.Time,
		Failure: &publish.Failure{
			Tell: true,
			Message: fault.Clip(fmt.Sprintf("nothing was attached, since the network status is not written: %v", err),
				fault.MaxMessage),
		},
	}
}

// writeEvents writes the events of a report, within publishLimit.
func (t *thin) writeEvents(ctx context.Context, c publish.Cluster, report *publish.Report) {
	ctx, cancel := context.WithTimeoutCause(ctx, publishLimit, fmt.Errorf("took longer than %s", publishLimit))
	defer cancel()
	if err := publish.WriteEvents(ctx, c, report); err != nil {
		t.log.Error("events not written", "container", report.ContainerID, "err", err)
	}
}

// writeStatus writes a status. One that the pod waits for is tried again until ctx ends, as long as another attempt may
// help: an API server that is overloaded for a moment, or restarted, is no reason to undo what is attached.
func writeStatus(ctx context.Context, c publish.Cluster, report *publish.Report) error {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := publish.WriteStatus(ctx, c, report, netsel.Status)
		if !report.Needed || !errors.Is(err, publish.ErrRetry) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
