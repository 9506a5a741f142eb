package planserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	wirev1 "multus/wire/v1"
)

const (
	// maxWorkWait limits how long a runner may wait for work in one request.
	maxWorkWait = 60 * time.Second
	// maxWorkDone and maxDiff limit the size of the requests of a runner: some pods, and what one pod has.
	maxWorkDone = 1 << 20
	maxDiff     = 8 << 20
	// noHotPlug is the message for a runner that is not needed.
	noHotPlug = "this daemon does not change the networks of running pods: set hotPlug in its configuration file " +
		"(deploy/components/hotplug)"
)

// unattended reports whether a runner has to be started.
func (s *Server) unattended() bool { return s.hotPlug != nil && s.hotPlug.Unattended() }

// status answers with the cached STATUS result of the cluster network. It holds no lock while it writes, because the
// client may read slowly.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	result := s.statusCache.load(r.URL.Query().Get("key"))
	result.Work = s.unattended()
	answer(w, http.StatusOK, result)
}

// work hands out the pods whose networks may have to be changed, as soon as there are some.
func (s *Server) work(w http.ResponseWriter, r *http.Request) {
	if s.hotPlug == nil {
		answer(w, http.StatusNotFound, &types.Error{Code: fault.Decoding, Msg: noHotPlug})
		return
	}
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil || wait < 0 {
		wait = 0
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(wait, maxWorkWait))
	defer cancel()
	work := wirev1.Work{Pods: []wirev1.Pod{}, StateDir: s.conf.HostPath(s.conf.CNIDir)}
	if linger := s.conf.HotPlugLinger.Duration; linger > 0 {
		work.Linger = linger.String()
	}
	for _, pod := range s.hotPlug.Next(ctx) {
		work.Pods = append(work.Pods, wirev1.Pod(pod))
		if container := s.hotPlug.Adoption(pod); container != "" {
			work.Adopt = append(work.Adopt, wirev1.Adoption{Pod: wirev1.Pod(pod), ContainerID: container})
			work.ResultsDir = s.conf.HostPath(cmp.Or(s.conf.CNIResultsDir, config.DefaultCNIResultsDir))
		}
	}
	work.Observe = s.hotPlug.TakeObservation()
	for _, d := range s.hotPlug.Delegations() {
		work.Delegate = append(work.Delegate, wirev1.DelegateJob{
			ID: d.ID, Command: d.Command, Pod: wirev1.Pod(d.Pod), ContainerID: d.ContainerID, Netns: d.Netns,
			IfName: d.IfName, Network: d.Network,
		})
	}
	if len(work.Pods)+len(work.Delegate) > 0 {
		failpoint.At("hotplug.handed")
	}
	limitAnswer(w)
	answer(w, http.StatusOK, work)
}

// workDone takes the results of pods that were handed out.
func (s *Server) workDone(w http.ResponseWriter, r *http.Request) {
	var msg wirev1.WorkDone
	r.Body = http.MaxBytesReader(w, r.Body, maxWorkDone)
	if err := s.receive(r.Context(), w, r, &msg); err != nil {
		s.refuse(w, &request.Request{}, err)
		return
	}
	if s.hotPlug == nil {
		answer(w, http.StatusNotFound, &types.Error{Code: fault.Decoding, Msg: noHotPlug})
		return
	}
	failpoint.At("hotplug.received")
	for _, result := range msg.Results {
		if err := s.hotPlug.Done(request.Pod(result.Pod), result.Error); err != nil {
			s.log.Debug("result of a runner ignored", "pod", fault.Clip(result.Pod.Name, fault.MaxName), "err", err)
		}
	}
	s.delegated(msg.Delegated)
	failpoint.At("hotplug.settled")
	answer(w, http.StatusOK, struct{}{})
}

// changes compares a sandbox, or decides about the one network of a delegation.
func (s *Server) changes(ctx context.Context, r *plan.Resolver, req *request.Request, conf *config.Plugin,
	has []plan.Attached, delegation string,
) (*plan.Changes, error) {
	if delegation == "" {
		r.Pods = s.hotPlug
		return r.Diff(ctx, req, conf, has)
	}
	wanted := s.hotPlug.Wanted(delegation)
	if wanted == nil {
		return nil, errors.New("no client waits for this request any more")
	}
	return r.Delegate(ctx, req, conf, has, wanted)
}

// diff compares what a running sandbox has with what its pod requests now.
func (s *Server) diff(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), PlanLimit, fmt.Errorf("planning took longer than %s", PlanLimit))
	defer cancel()
	var msg wirev1.DiffRequest
	r.Body = http.MaxBytesReader(w, r.Body, maxDiff)
	if err := s.receive(ctx, w, r, &msg); err != nil {
		s.refuse(w, &request.Request{}, err)
		return
	}
	if s.hotPlug == nil {
		answer(w, http.StatusNotFound, &types.Error{Code: fault.Decoding, Msg: noHotPlug})
		return
	}
	req, has := msg.ToDiff()
	place := &largePlanPlace{ctx: ctx, all: s.large}
	defer place.release()
	conf, err := s.configFor(req)
	if err != nil {
		s.refuse(w, req, err)
		return
	}
	for i := range has {
		has[i].Lost = s.resync.Lost(req.ContainerID, has[i].IfName)
	}
	changes, err := s.changes(ctx, s.resolverFor(place), req, conf, has, msg.Delegate)
	if err != nil {
		s.refuse(w, req, err)
		return
	}
	failpoint.At("hotplug.compared")
	if changes.Pod.UID == "" {
		s.unidentified.add(sandboxOf(req.ContainerID, changes.Pod.Namespace, changes.Pod.Name))
	}
	limitAnswer(w)
	answer(w, http.StatusOK, wirev1.FromChanges(changes, fault.ToCNI))
}

// missingPods lists the pods that run without the networks that they request.
func (s *Server) missingPods(w http.ResponseWriter, _ *http.Request) {
	if s.unattached == nil {
		answer(w, http.StatusNotFound, &types.Error{Code: fault.Decoding, Msg: noHotPlug})
		return
	}
	list := wirev1.MissingPods{Pods: []wirev1.MissingPod{}}
	missing := s.unattached.Missing()
	for i := range missing[:min(len(missing), wirev1.MaxMissing)] {
		m := &missing[i]
		list.Pods = append(list.Pods, wirev1.MissingPod{
			Pod: wirev1.Pod(m.Pod), ContainerID: m.Container, Networks: m.Networks,
			Since: m.Since.UTC().Format(time.RFC3339), Repair: m.Rule, Note: m.Note,
		})
	}
	limitAnswer(w)
	answer(w, http.StatusOK, list)
}
