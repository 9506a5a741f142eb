// Package thin is the host of the multus plugin. It uses the same engine as multus-shim, but plans and publishes in
// process, with the API server or a directory of files as the source. Only cmd/multus imports it.
package thin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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
	"multus/internal/source"
	"multus/internal/source/kube"
)

// publishLimit limits the attempts to write a status and events. There is no daemon that would retry them later.
const publishLimit = 2 * time.Second

const (
	// statusLimit limits the attempts to write a status whose loss fails the ADD.
	statusLimit = 10 * time.Second
	// firstPause and longPause limit the pauses between these attempts.
	firstPause = 200 * time.Millisecond
	longPause  = time.Second
)

// Host returns the host of the thin plugin.
func Host() plugin.Host {
	return plugin.Host{
		Name: "multus", LogToStderr: true,
		Connect: func(conf *config.Plugin, log *slog.Logger) plugin.Connection {
			t := &thin{log: log}
			t.sources = sync.OnceValues(func() (*source.Sources, error) { return open(conf, t.log) })
			return t
		},
	}
}

// open opens the sources of a configuration.
func open(conf *config.Plugin, log *slog.Logger) (*source.Sources, error) {
	return source.Open(source.Options{
		NetworksDir: conf.NetworksDir, StatusDir: filepath.Join(conf.NetworksDir, "status"),
		Kubeconfig: conf.Kubeconfig, KubeletRoot: conf.KubeletRoot, Events: conf.Events, Getenv: os.Getenv, Log: log,
	})
}

// Get returns no STATUS result: the process ends after one command, so that it caches none.
func (t *thin) Get(context.Context, []byte) (error, bool) { return nil, false }

// Put does nothing. See Get.
func (t *thin) Put(context.Context, []byte, error) {}

// thin plans and publishes in process. It opens its sources at first use.
type thin struct {
	log     *slog.Logger
	sources func() (*source.Sources, error)
}

var _ plugin.Connection = (*thin)(nil)

// Plan resolves the plan in process. A plain pod needs no source, so that a source that cannot be opened does not fail
// it (docs/architecture.md).
func (t *thin) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	if err := conf.ValidEvents(); err != nil && req.Command == request.Add {
		return nil, err
	}
	r := &plan.Resolver{Log: t.log, Missing: t.missing(ctx), PhysicalFunction: device.PhysicalFunction}
	s, err := t.sources()
	switch {
	case err == nil:
		r.Networks, r.Pods, r.Devices = s.Networks, s.Pods, s.Devices
	case errors.Is(err, kube.ErrNoCluster), plan.Plain(req, conf):
	default:
		return nil, fault.KubeconfigUnusable.Wrap(err)
	}
	return r.Plan(ctx, req, conf)
}

// missing returns a function that emits the event of a definition that cannot be read (behaviour B8).
func (t *thin) missing(ctx context.Context) func(string, *plan.Pod, *plan.MissingNetworkError) {
	return func(containerID string, pod *plan.Pod, m *plan.MissingNetworkError) {
		missing := publish.Missing(pod.Identity(), containerID, m.Error())
		if err := t.Publish(ctx, missing); err != nil {
			t.log.Error("event not written", "container", containerID, "err", err)
		}
	}
}

// Publish writes the status and the events of a report concurrently, within publishLimit (behaviour A45:
// today's Multus loses the events when its process ends). A status that cannot be written is lost, because there is no
// daemon that would retry it later. If its loss fails the ADD, Publish tries to write it for statusLimit, and writes
// the events after it: they depend on whether the attachments are kept or undone.
func (t *thin) Publish(ctx context.Context, report *publish.Report) error {
	if len(report.Attached) == 0 && report.Failure == nil {
		return nil // timings are sent to a daemon only
	}
	s, err := t.sources()
	if errors.Is(err, kube.ErrNoCluster) {
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
		if err = writeStatus(ctx, s.Cluster, report); err != nil {
			report = lost(report, err)
		}
		t.writeEvents(context.WithoutCancel(ctx), s.Cluster, report)
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { t.writeEvents(ctx, s.Cluster, report) })
	err = writeStatus(ctx, s.Cluster, report)
	wg.Wait()
	return err
}

// lost returns the report of an ADD that is undone because its status is lost.
func lost(r *publish.Report, err error) *publish.Report {
	return &publish.Report{
		Command: r.Command, Pod: r.Pod, ContainerID: r.ContainerID, Time: r.Time,
		Failure: &publish.Failure{
			EmitEvent: true,
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

// writeStatus writes a status. If the report is needed, it retries until ctx ends, as long as another attempt may
// succeed: an overloaded or restarting API server is no reason to undo the attachments.
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

// HasWork reports false: the thin plugin has no daemon, and no runner.
func (t *thin) HasWork() bool { return false }
