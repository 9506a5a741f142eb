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
	// noResync is the message for a runner whose observations are not needed.
	noResync = "this daemon does not compare network statuses: set hotPlug and statusResync in its configuration file"
)

// observed compares what the sandboxes of the node have with the network statuses of their pods, and answers with the
// networks to attach again.
func (s *Server) observed(w http.ResponseWriter, r *http.Request) {
	var msg wirev1.Observed
	if err := s.receive(r.Context(), w, r, &msg); err != nil {
		s.refuse(w, &request.Request{}, err)
		return
	}
	if s.resync == nil {
		answer(w, http.StatusNotFound, &types.Error{Code: fault.Decoding, Msg: noResync})
		return
	}
	failpoint.At("observed.received")
	ctx, cancel := context.WithTimeoutCause(r.Context(), compareLimit, fmt.Errorf("it took longer than %s", compareLimit))
	defer cancel()
	var sandboxes []*publish.Observation
	for i := range msg.Sandboxes[:min(len(msg.Sandboxes), maxSandboxes)] {
		sandboxes = append(sandboxes, msg.Sandboxes[i].ToObservation())
	}
	var out wirev1.ObservedAnswer
	for _, again := range s.resync.Compare(ctx, sandboxes, !msg.More) {
		out.Reattach = append(out.Reattach, wirev1.Reattach{
			Pod: wirev1.Pod(again.Pod), ContainerID: again.ContainerID, IfNames: again.IfNames,
		})
	}
	limitAnswer(w)
	answer(w, http.StatusOK, out)
}
