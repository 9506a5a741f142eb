// Package planserver has the handlers of the daemon's socket: plans for the plugins, their reports, the STATUS results
// that they share, and probes. It opens no socket and no port, which is the task of internal/host/daemon, the only
// importer.
package planserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/agent/claims"
	"multus/internal/agent/hotplug"
	"multus/internal/agent/metrics"
	"multus/internal/agent/podstatus"
	"multus/internal/agent/recent"
	"multus/internal/agent/repair"
	"multus/internal/agent/resync"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/rawjson"
	wirev1 "multus/wire/v1"
)

const (
	// PlanLimit limits the time to make one plan. The plugin waits longer than that.
	PlanLimit = 20 * time.Second
	// maxBody limits the size of a request on the socket.
	maxBody = 16 << 20
	// maxEvents limits the events of a report of a running pod. It is more than the networks that one pod may have.
	maxEvents = 256
	// maxUnidentified limits the number of sandboxes of pods without a UID that the server stores.
	maxUnidentified = 4096
)

// InstanceHeader is the header of an answer to /healthz that identifies the instance.
const InstanceHeader = "Multus-Instance"

// Options are the settings of a Server. All of them are required, except Claims, HotPlug, Missing and Resync.
type Options struct {
	// Config is the daemon's configuration, which is merged into that of each request.
	Config *config.Daemon
	// Resolver makes the plans. The server sets its Missing and Reserve.
	Resolver *plan.Resolver
	Statuses *podstatus.Writer
	// Claims is nil if the status of ResourceClaims is not written.
	Claims  *claims.Writer
	Metrics *metrics.Metrics
	// HotPlug is nil if the networks of running pods are not changed.
	HotPlug *hotplug.Queue
	// Resync is nil if the network statuses of running pods are not compared with what the pods have.
	Resync *resync.Comparer
	// Observe takes each report, for metrics and traces, and sets its TraceID.
	Observe func(*publish.Report)
	// Ready returns an error while the daemon is not ready (behaviour E40).
	Ready func() error
	// Missing finds the pods without their networks. It is nil if they are not looked for.
	Missing *repair.Finder
	// Instance distinguishes this process from others in an answer.
	Instance string
	Log      *slog.Logger
}

// Server serves the requests of the plugin.
type Server struct {
	conf        *config.Daemon
	resolver    *plan.Resolver
	statuses    *podstatus.Writer
	claims      *claims.Writer
	observe     func(*publish.Report)
	metrics     *metrics.Metrics
	hotPlug     *hotplug.Queue
	unattached  *repair.Finder
	resync      *resync.Comparer
	statusCache statusCache
	ready       func() error
	log         *slog.Logger
	instance    string

	unidentified unidentified
	// decoding limits the requests that are decoded at the same time, and large those with a large plan.
	decoding, large semaphore
}

// New returns a Server.
func New(o Options) *Server {
	s := &Server{
		conf: o.Config, statuses: o.Statuses, claims: o.Claims, observe: o.Observe, metrics: o.Metrics, hotPlug: o.HotPlug,
		ready: o.Ready,
		log:   o.Log, instance: o.Instance, unattached: o.Missing, resync: o.Resync,
		decoding: make(semaphore, decoders), large: make(semaphore, largePlans),
	}
	resolver := *o.Resolver
	resolver.Missing = s.missing
	s.resolver = &resolver
	return s
}

// unidentified has the sandboxes that were planned for a pod without a UID: either the runtime passes none, or the pod
// is static and has another UID in the API. The zero value is ready to use.
type unidentified struct {
	mu        sync.Mutex
	sandboxes *recent.Names
}

func sandboxOf(containerID string, namespace, pod string) string {
	return containerID + " " + namespace + "/" + pod
}

func (u *unidentified) add(sandbox string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.sandboxes == nil {
		u.sandboxes = recent.New(maxUnidentified)
	}
	u.sandboxes.Add(sandbox)
}

func (u *unidentified) has(sandbox string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sandboxes != nil && u.sandboxes.Number(sandbox) > 0
}

// maxMethod limits the length of a request's method in an answer.
const maxMethod = 16

// notServed has the advice for the paths that only today's Multus serves: which client sends the request, and what to
// do.
var notServed = map[string]string{
	pathDelegate: " without hotPlug: multus-dynamic-networks-controller calls it to attach a network to a running pod " +
		"(hot-plug). Set hotPlug in the daemon's configuration file (deploy/components/hotplug): then it is served, and " +
		"this Multus changes running pods itself, so that the controller can be removed; see docs/hot-plug.md",
	"/cni": ": the multus-shim of another Multus calls it; install the plugin that belongs to this daemon " +
		"(multus-daemon install --dest DIR, or restart the DaemonSet's pod of this node); see docs/upgrade.md",
}

// Handler returns the handler of the socket.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]http.HandlerFunc{
		"POST " + wirev1.PathPlan:   s.plan,
		"POST " + wirev1.PathReport: s.report,
		"GET " + wirev1.PathStatus:  s.status,
		"GET " + wirev1.PathWork:    s.work,
		"POST " + wirev1.PathWork:   s.workDone,
		"POST " + wirev1.PathDiff:   s.diff,
		"GET " + wirev1.PathMissing: s.missingPods,
		"POST " + wirev1.PathStatus: s.statusCache.put,
		pathDelegate:                s.delegate,
		wirev1.PathHealth:           s.health,
		wirev1.PathReady:            s.readiness,

		"POST " + wirev1.PathObserved: s.observed,
	} {
		_, path, ok := strings.Cut(pattern, " ")
		if !ok {
			path = pattern
		}
		mux.HandleFunc(pattern, s.metrics.Count(path, h))
	}
	mux.HandleFunc("/", s.metrics.Count("NotFound", refusePath))
	return mux
}

// refusePath answers a request that is not served.
func refusePath(w http.ResponseWriter, r *http.Request) {
	// A request of a known path with an unsupported method is routed here, too.
	status := http.StatusNotFound
	switch r.URL.Path {
	case wirev1.PathPlan, wirev1.PathReport, wirev1.PathStatus, wirev1.PathWork, wirev1.PathDiff,
		wirev1.PathMissing, wirev1.PathObserved:
		status = http.StatusMethodNotAllowed
	}
	msg := fmt.Sprintf("%s %s is not served", fault.Clip(r.Method, maxMethod), fault.Clip(r.URL.Path, fault.MaxName))
	answer(w, status, &types.Error{Code: fault.Decoding, Msg: msg + notServed[r.URL.Path]})
}

// plan makes the plan of a request. The daemon's configuration file is merged into the configuration of the request
// (behaviour A90).
func (s *Server) plan(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), PlanLimit, fmt.Errorf("planning took longer than %s", PlanLimit))
	defer cancel()
	var msg wirev1.Request
	err := s.receive(ctx, w, r, &msg)
	req := msg.ToRequest() // also after an error, with what was decoded before it
	if err != nil {
		s.refuse(w, req, err)
		return
	}
	failpoint.At("daemon.plan.received")
	start := time.Now()
	place := &largePlanPlace{ctx: ctx, all: s.large}
	defer place.release()
	p, err := s.resolve(ctx, place, req)
	var code uint
	if err != nil {
		code = fault.ToCNI(err).Code
	}
	s.metrics.Planned(req.Command, code, time.Since(start))
	if err != nil {
		s.refuse(w, req, err)
		return
	}
	if req.Command == request.Add {
		s.prepareReport(req, p)
	}
	failpoint.At("daemon.plan.made")
	limitAnswer(w)
	made := wirev1.FromPlan(p)
	made.Work = s.unattended()
	answer(w, http.StatusOK, made)
	failpoint.At("daemon.plan.answered")
}

// prepareReport prepares for the report of an ADD that was planned. A report in a file would be seen late without a
// watch, so that the pod waits for its status then.
func (s *Server) prepareReport(req *request.Request, p *plan.Plan) {
	if p.Pod.UID == "" {
		s.unidentified.add(sandboxOf(req.ContainerID, p.Pod.Namespace, p.Pod.Name))
	}
	p.StatusWait = p.StatusWait || !s.statuses.Watching()
}

func (s *Server) resolve(ctx context.Context, place *largePlanPlace, req *request.Request) (*plan.Plan, error) {
	conf, err := s.configFor(req)
	if err != nil {
		return nil, err
	}
	return s.resolverFor(place).Plan(ctx, req, conf)
}

// configFor returns the configuration of a request, with the daemon's merged into it.
func (s *Server) configFor(req *request.Request) (*config.Plugin, error) {
	b, err := s.conf.ForRequest(req.Config)
	if err != nil {
		return nil, fault.RequestConfigInvalid.Wrap(err, req.Pod())
	}
	return config.ParsePlugin(b)
}

// resolverFor returns the resolver for one request.
func (s *Server) resolverFor(place *largePlanPlace) *plan.Resolver {
	resolver := *s.resolver
	resolver.Reserve = place.grow
	return &resolver
}

// missing emits the event of a network definition that cannot be read.
func (s *Server) missing(containerID string, pod *plan.Pod, m *plan.MissingNetworkError) {
	s.statuses.Announce(publish.Missing(pod.Identity(), containerID, m.Error()))
}

// report hands a report to the writer of statuses, and answers when that has accepted it. A failure to write the status
// is not an error of the request: the writer retries it.
func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	var msg wirev1.Report
	if err := s.receive(r.Context(), w, r, &msg); err != nil {
		s.refuse(w, &request.Request{}, err)
		return
	}
	msg.Events = msg.Events[:min(len(msg.Events), maxEvents)]
	rep := msg.ToReport()
	rep.Unready.Clip()
	if err := s.identified(rep); err != nil {
		s.log.Warn("report refused", "pod", rep.Pod.LogName(), "container", rep.ContainerID, "err", err)
		answer(w, http.StatusBadRequest, &types.Error{Code: fault.Decoding, Msg: err.Error()})
		return
	}
	failpoint.At("daemon.report.received")
	s.observe(rep)
	log := s.log
	if rep.TraceID != "" {
		log = log.With("trace", rep.TraceID)
	}
	if f := rep.Failure; f != nil && f.EmitEvent {
		log := log.With("pod", rep.Pod.LogName(), "container", rep.ContainerID,
			"err", fault.WithRequest(fault.Clip(f.Message, fault.MaxMessage), rep.ContainerID))
		if rep.Command == request.Del {
			log.Error("DEL gave up networks")
		} else {
			log.Error("ADD failed")
		}
	}
	if rep.Command == request.Del {
		s.statuses.DropDeleted(rep.Pod, rep.ContainerID, rep.Time)
		if s.claims != nil {
			s.claims.Observe(rep)
		}
	}
	if !effective(rep) {
		answer(w, http.StatusOK, struct{}{}) // timings only
		return
	}
	s.statuses.Accept(r.Context(), rep)
	failpoint.At("daemon.report.queued")
	answer(w, http.StatusOK, struct{}{})
	failpoint.At("daemon.report.answered")
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(InstanceHeader, s.instance)
	answer(w, http.StatusOK, nil)
}

// effective reports whether a report causes a status, an event or a condition.
func effective(r *publish.Report) bool {
	return r.Failure != nil || len(r.Attached) > 0 || len(r.Events) > 0 || r.Unready != nil
}

// identified returns an error if an effective report has no pod UID: either could reach another
// pod of the same name. Sandboxes that this daemon planned for a pod without a UID are excepted. Nothing is lost if the
// daemon restarted since the plan: a plugin whose status is refused leaves it in a file, which only root of the node
// can write.
func (s *Server) identified(r *publish.Report) error {
	if r.Pod.UID != "" || !effective(r) ||
		s.unidentified.has(sandboxOf(r.ContainerID, r.Pod.Namespace, r.Pod.Name)) {
		return nil
	}
	return errors.New("the report has no pod UID, and this daemon made no plan for the sandbox of a pod without UID: " +
		"the runtime must pass K8S_POD_UID")
}

// readiness serves /readyz: 200 if the daemon is ready, and 503 with the reason as a CNI error (code 50) if not.
func (s *Server) readiness(w http.ResponseWriter, _ *http.Request) {
	if err := s.ready(); err != nil {
		unavailable(w, err)
		return
	}
	answer(w, http.StatusOK, nil)
}

// refuse answers with a CNI error object and logs the error once.
func (s *Server) refuse(w http.ResponseWriter, req *request.Request, err error) {
	whole := fault.ToCNI(err)
	ce := &types.Error{
		Code: whole.Code, Msg: fault.Clip(whole.Msg, fault.MaxMessage), Details: fault.Clip(whole.Details, fault.MaxMessage),
	}
	container := fault.Clip(req.ContainerID, fault.MaxName)
	s.log.Error("request refused", "cmd", fault.Clip(req.Command, fault.MaxName),
		"pod", fault.Clip(req.Pod(), fault.MaxName), "container", container, "code", ce.Code, "err",
		fault.ForRequest(ce, container).Error())
	status := http.StatusBadRequest
	if ce.Code == fault.TryAgain {
		status = http.StatusServiceUnavailable
	}
	answer(w, status, ce)
}

func decode(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if err := dec.Decode(v); err != nil {
		return fault.RequestUnreadable.Wrap(err, r.URL.Path)
	}
	return nil
}

// answer writes a response. It always sets Content-Length, because the plugin's client supports no other framing.
func answer(w http.ResponseWriter, status int, v any) {
	var b []byte
	if v != nil {
		var err error
		if b, err = rawjson.Marshal(v); err != nil {
			status, b = http.StatusInternalServerError, nil
		}
		w.Header().Set("Content-Type", "application/json")
	}
	answerBytes(w, status, b)
}

func answerBytes(w http.ResponseWriter, status int, b []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // an error means that the client is gone
}
