package publish

import (
	"context"
	"errors"

	"multus/internal/config"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// Event types of Kubernetes.
const (
	Normal  = "Normal"
	Warning = "Warning"
)

// Reasons of events about the interfaces of a pod. multus-dynamic-networks-controller has the same ones, except for the
// last.
const (
	AddedInterface          = "AddedInterface"
	RemovedInterface        = "RemovedInterface"
	FailedAddingInterface   = "FailedAddingInterface"
	FailedRemovingInterface = "FailedRemovingInterface"
	InterfaceAddRejected    = "InterfaceAddRejected"
	InterfaceChangeIgnored  = "InterfaceChangeIgnored"
	InterfaceLost           = "InterfaceLost"
	InterfaceRestored       = "InterfaceRestored"
	AddressChanged          = "AddressChanged"
)

// Event is one Kubernetes event of a pod (behaviour O.5).
type Event struct {
	Type    string `json:"type"` // Normal or Warning
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Seldom limits equal events of one pod to one a minute, whichever process writes them. A runtime retries a failed ADD
	// every few seconds, with a new process and container each time.
	Seldom bool `json:"seldom,omitempty"`
	// ContainerID identifies the request. Seldom events that differ only in it are equal.
	ContainerID string `json:"containerID,omitempty"`
	// TraceID is the ID of the request's trace, or "". Seldom events that differ only in it are equal.
	TraceID string `json:"-"`
}

// Text returns the message. For a seldom event it appends the name of the request, as in the runtime's error, and that
// of the trace if there is one. Multus 4.x has no seldom events. The other texts are those of today's Multus, and
// programs compare them (behaviour O60, O61).
func (e Event) Text() string {
	if !e.Seldom {
		return e.Message
	}
	return fault.WithTrace(fault.WithRequest(e.Message, e.ContainerID), e.TraceID)
}

var (
	// ErrGone is returned if the pod no longer exists or if another pod has its name (the UID differs). There is nothing
	// to write, and this is not a failure.
	ErrGone = errors.New("pod is gone")
	// ErrRetry is returned if the same call may succeed later: the API server is not reachable, overloaded or slow, or
	// returned a conflict.
	ErrRetry = errors.New("try again later")
	// ErrRefused is returned if the same call can never succeed: the API server rejected the content, for example because
	// the pod's annotations are too long. Retrying is useless.
	ErrRefused = errors.New("refused")
	// ErrForbidden is returned if Multus lacks the permission. The call succeeds once the role is corrected, which takes
	// minutes or longer.
	ErrForbidden = errors.New("not allowed")
	// ErrTaken is returned if another program, or another pod, has written what a pod should have in the status of a
	// ResourceClaim. The call succeeds when that is removed.
	ErrTaken = errors.New("has another value")
)

// Cluster writes network status and events. Errors wrap ErrGone, ErrRetry, ErrRefused or ErrForbidden where they apply.
type Cluster interface {
	// SetStatus sets one annotation of a pod, and the condition of its readiness gate if the pod lists the gate: False if
	// unready is set, else True. If the value is "", only the condition is set, and only if it changes. If the pod's UID
	// is known, it is the precondition.
	SetStatus(ctx context.Context, pod request.Pod, key, value string, unready *Unready) error
	// Emit writes an event of the pod, with the component "multus" (behaviour A45).
	Emit(ctx context.Context, pod request.Pod, event Event) error
}

// WithEvents returns a Cluster that writes only those events of c that a value of the key events selects.
func WithEvents(c Cluster, events string) Cluster {
	switch events {
	case config.EventsFailures, config.EventsNone:
		return selective{c, events}
	}
	return c
}

type selective struct {
	Cluster
	events string
}

// Emit writes warnings with EventsFailures, and otherwise nothing.
func (s selective) Emit(ctx context.Context, pod request.Pod, e Event) error {
	if s.events == config.EventsFailures && e.Type == Warning {
		return s.Cluster.Emit(ctx, pod, e)
	}
	return nil
}
