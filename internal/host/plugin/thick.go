package plugin

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

const (
	// requestLimit limits a request to the daemon if the command can do without the answer (DEL, STATUS). gcRequestLimit
	// limits a request for GC, for which no pod waits.
	requestLimit   = time.Second
	gcRequestLimit = 10 * time.Second
	// reportWait limits how long an ADD waits for its status to be written. After that the daemon writes it later.
	reportWait = 3 * time.Second
	// statusLimit limits the request for the daemon's STATUS result, whose answer also says whether there is work for a
	// runner. It is a part of the time that STATUS has.
	statusLimit = 250 * time.Millisecond
	// briefLimit limits the requests whose loss does no harm, such as the timings of a DEL.
	briefLimit = 50 * time.Millisecond
)

// Thick returns the host of multus-shim. The daemon makes its plans and writes the statuses.
func Thick() Host {
	return Host{Name: "multus-shim", Connect: func(conf *config.Plugin, log *slog.Logger) Connection {
		return connect(conf, log)
	}}
}

func connect(conf *config.Plugin, log *slog.Logger) *daemon {
	return &daemon{client: &client.Client{Socket: conf.SocketPath()}, log: log}
}

// daemon is the plugin's connection to the daemon.
type daemon struct {
	client *client.Client
	log    *slog.Logger
	// work reports whether the daemon has said that it has work for a runner.
	work atomic.Bool
}

var _ Connection = (*daemon)(nil)

// HasWork reports whether an answer of the daemon said that there is work.
func (d *daemon) HasWork() bool { return d.work.Load() }

func (d *daemon) heard(work bool) {
	if work {
		d.work.Store(true)
	}
}

// Get returns the daemon's cached STATUS result. It returns false if the daemon has no valid one, or does not answer.
func (d *daemon) Get(ctx context.Context, conf []byte) (error, bool) {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	var s wirev1.StatusResult
	err := d.client.Call(ctx, "GET", wirev1.PathStatus+"?key="+statusKey(conf), nil, &s)
	d.heard(s.Work)
	if err != nil || !s.Known {
		return nil, false
	}
	if s.Error == nil {
		return nil, true
	}
	return s.Error, true
}

// Put sends a STATUS result of the cluster network to the daemon, which caches it.
func (d *daemon) Put(ctx context.Context, conf []byte, answer error) {
	ctx, cancel := context.WithTimeout(ctx, briefLimit)
	defer cancel()
	s := wirev1.StatusResult{Key: statusKey(conf)}
	if answer != nil {
		s.Error = fault.ToCNI(answer)
	}
	if err := d.client.Call(ctx, "POST", wirev1.PathStatus, &s, nil); err != nil {
		d.log.Debug("cannot cache the STATUS result", "err", err)
	}
}

// statusKey returns a key that distinguishes configurations. It is no secret and no signature.
func statusKey(conf []byte) string {
	h := fnv.New64a()
	_, _ = h.Write(conf) // never fails
	return strconv.FormatUint(h.Sum64(), 16)
}

// Plan requests the plan from the daemon. It makes the plan itself for a plain pod whose configuration the daemon
// generated for that (docs/architecture.md). An ADD waits for a daemon that is away. The other commands do not, because
// they have a fallback.
func (d *daemon) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	if canPlanLocally(req, conf) {
		return (&plan.Resolver{Log: d.log}).Plan(ctx, req, conf)
	}
	call, wait := d.client.Persist, conf.DaemonWait()
	switch req.Command {
	case request.Add:
	case request.GC:
		call, wait = d.client.Call, gcRequestLimit
	default:
		call, wait = d.client.Call, requestLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("no answer for %s", wait))
	defer cancel()
	var answer wirev1.Plan
	if err := call(ctx, "POST", wirev1.PathPlan, wirev1.FromRequest(req), &answer); err != nil {
		return nil, tryAgain(err, req)
	}
	d.heard(answer.Work)
	p := answer.ToPlan()
	if err := p.Validate(req); err != nil {
		return nil, fault.PlanUnusable.Wrap(err, req.Pod())
	}
	return p, nil
}

// canPlanLocally reports whether the plan can be made from files of this host alone.
func canPlanLocally(req *request.Request, conf *config.Plugin) bool {
	if conf.PlainPods != config.PlainLocal || conf.ClusterNetwork != "" && !strings.Contains(conf.ClusterNetwork, "/") {
		return false
	}
	return plan.Plain(req, conf) || req.Command == request.Status || req.Command == request.GC
}

// Publish passes a report to the daemon. A status for which the pod waits goes over the socket, and the daemon answers
// once it is written. Any other status is left in a file, which the daemon sees at once or after its next start: a file
// costs a fifth of a request, and survives a restart of the daemon. If it cannot be left there, the pod of a needed
// status waits for it. A report with nothing but timings is sent without waiting.
func (d *daemon) Publish(ctx context.Context, report *publish.Report) error {
	msg := wirev1.FromReport(report)
	switch {
	case !report.HasStatus() && report.Failure == nil:
		d.sendTimings(ctx, msg)
		return nil
	case report.HasStatus() && !report.Wait:
		err := d.writeReportFile(report.File(), msg)
		if err == nil {
			return nil
		}
		d.log.Warn("sending the status over the socket: it cannot be left in a file", "container", report.ContainerID,
			"err", err)
		msg.Wait = report.Needed
	}
	return d.deliver(ctx, report, msg)
}

// sendTimings sends a report that needs no answer.
func (d *daemon) sendTimings(ctx context.Context, msg *wirev1.Report) {
	ctx, cancel := context.WithTimeout(ctx, briefLimit)
	defer cancel()
	if err := d.client.Send(ctx, "POST", wirev1.PathReport, msg); err != nil {
		d.log.Debug("cannot report timings", "err", err)
	}
}

// deliver sends a report and waits for the daemon's answer. If the daemon does not accept a status in time, deliver
// leaves it in a file. It returns an error only if that fails, so that the status is lost.
func (d *daemon) deliver(ctx context.Context, report *publish.Report, msg *wirev1.Report) error {
	wait := reportWait
	if !report.HasStatus() {
		wait = briefLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("no answer for %s", wait))
	defer cancel()
	err := d.client.Call(ctx, "POST", wirev1.PathReport, msg, nil)
	if err == nil || !report.HasStatus() {
		return nil
	}
	d.log.Warn("status is written later: the daemon did not accept it", "container", report.ContainerID, "err", err)
	if lost := d.writeReportFile(report.File(), msg); lost != nil {
		return errors.Join(fmt.Errorf("the daemon did not accept the status: %w", err), lost)
	}
	return nil
}

// writeReportFile writes a report to a file in the directory in which the daemon looks for reports.
func (d *daemon) writeReportFile(name string, msg *wirev1.Report) error {
	failpoint.At("leave.before")
	dir := filepath.Join(filepath.Dir(d.client.Socket), wirev1.ReportDir)
	if err := fsx.MakeDir(dir, 0o700); err != nil {
		return fmt.Errorf("leave report: %w", err)
	}
	// Without fsync: the sandbox does not survive a reboot.
	err := fsx.Replace(filepath.Join(dir, name), msg.AppendJSON(nil), 0o600)
	failpoint.At("leave.after")
	return err
}
