package publish

import (
	"context"
	"errors"

	"multus/internal/fault"
)

// Pod names the pod object that is told about its networks. UID is empty where the runtime gave none.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

// Event types of Kubernetes.
const (
	Normal  = "Normal"
	Warning = "Warning"
)

// Event is one Kubernetes event about a pod (behaviour.md O.5).
type Event struct {
	Type    string `json:"type"` // Normal or Warning
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Seldom: the same event about the same pod is worth telling once a minute, whoever tells it. A runtime tries a
	// failed ADD again every few seconds, with a new process and container each time.
	Seldom bool `json:"seldom,omitempty"`
	// ContainerID names the request; it does not make another event of one that is told seldom.
	ContainerID string `json:"containerID,omitempty"`
}

// Text is the message, and of an event that is told seldom, which today's Multus does not have, the request's name,
// as the runtime has it in its error. The other texts are today's, and programs compare them (behaviour.md O60, O61).
func (e Event) Text() string {
	if !e.Seldom {
		return e.Message
	}
	return fault.Told(e.Message, e.ContainerID)
}

var (
	// ErrGone is returned when the pod does not exist any more, or when another pod bears its name
	// (the UID differs). Nothing is left to tell, and that is no failure.
	ErrGone = errors.New("pod is gone")
	// ErrRetry is returned when the same call may succeed later: the API server is away, overloaded, slow,
	// or answered with a conflict.
	ErrRetry = errors.New("try again later")
	// ErrRefused is returned when the same call will never succeed: the API server rejected the content, for example
	// because the annotations of the pod are too long. Repeating it is useless.
	ErrRefused = errors.New("refused")
	// ErrForbidden is returned when Multus lacks the permission. The call succeeds once the role is corrected, which takes
	// minutes or longer.
	ErrForbidden = errors.New("not allowed")
)

// Cluster is where status and events are written to. Errors wrap ErrGone, ErrRetry, ErrRefused or ErrForbidden where
// they apply.
type Cluster interface {
	// SetAnnotation sets one annotation of a pod by one PATCH of pods/status, with the pod's UID as the
	// precondition when it is known.
	SetAnnotation(ctx context.Context, pod Pod, key, value string) error
	// Emit records an event about the pod, component "multus" (behaviour.md A45).
	Emit(ctx context.Context, pod Pod, event Event) error
}
