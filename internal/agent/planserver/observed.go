package planserver

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	wirev1 "multus/wire/v1"
)

const (
	// compareLimit limits the time of one comparison. What is left is done by the next one.
	compareLimit = 15 * time.Second
	// maxSandboxes limits the sandboxes of one request.
	maxSandboxes = 4096
)

// observed queues the pods in which a change was interrupted, compares what the other sandboxes of the node have with
// the network statuses of their pods if that is enabled, and answers with the networks to attach again.
func (s *Server) observed(w http.ResponseWriter, r *http.Request) {
	var msg wirev1.Observed
	if err := s.receive(r.Context(), w, r, &msg); err != nil {
		s.refuse(w, &request.Request{}, err)
		return
	}
	if s.hotPlug == nil {
		answer(w, http.StatusNotFound, &types.Error{Code: fault.Decoding, Msg: noHotPlug})
		return
	}
	failpoint.At("observed.received")
	var pending []request.Pod
	for _, pod := range msg.Pending[:min(len(msg.Pending), maxSandboxes)] {
		pending = append(pending, request.Pod(pod))
	}
	s.hotPlug.Leftovers(pending)
	var out wirev1.ObservedAnswer
	if s.resync == nil {
		if !msg.More {
			s.hotPlug.ObserveNoMore()
		}
		answer(w, http.StatusOK, out)
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), compareLimit, fmt.Errorf("it took longer than %s", compareLimit))
	defer cancel()
	var sandboxes []*publish.Observation
	for i := range msg.Sandboxes[:min(len(msg.Sandboxes), maxSandboxes)] {
		sandboxes = append(sandboxes, msg.Sandboxes[i].ToObservation())
	}
	for _, again := range s.resync.Compare(ctx, sandboxes, !msg.More) {
		out.Reattach = append(out.Reattach, wirev1.Reattach{
			Pod: wirev1.Pod(again.Pod), ContainerID: again.ContainerID, IfNames: again.IfNames,
		})
	}
	limitAnswer(w)
	answer(w, http.StatusOK, out)
}
