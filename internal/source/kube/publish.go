package kube

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// Limits of writes. Writes are not retried: the caller has a queue and decides when to retry.
const (
	patchTimeout = 5 * time.Second
	eventTimeout = 5 * time.Second

	maxObjectName   = 253  // DNS subdomain
	maxEventMessage = 1024 // the limit of events.k8s.io/v1
	eventIDBytes    = 8
	// seldom is the interval within which an event that is marked Seldom is recorded once.
	seldom = time.Minute

	component = "multus" // behaviour A45
)

// RequestAnnotation is the annotation of an event with the full container ID of the sandbox, which identifies the
// request.
const RequestAnnotation = "multus/container-id"

var _ publish.Cluster = (*Client)(nil)

// SetStatus sets one annotation of a pod with one merge PATCH of pods/status. If the UID is known, it is part of the
// patch: the API server refuses to change a UID, so that a new pod of the same name never gets the status of its
// predecessor. If the pod lists the readiness gate of Multus, its condition is set, too (patchStatus). If the role
// lacks the verb patch, as in today's manifests, SetStatus uses a GET and a PUT of the same object. The error wraps
// publish.ErrGone, publish.ErrRetry or publish.ErrRefused, or is a *ForbiddenError.
func (c *Client) SetStatus(ctx context.Context, pod request.Pod, key, value string, unready *publish.Unready) error {
	if pod.Namespace == "" || pod.Name == "" {
		return errors.New("set annotation: namespace and name of the pod must not be empty")
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	w, what := &statusWrite{pod: pod, unready: unready}, "condition "+publish.Gate
	if value != "" {
		w.annotations, what = map[string]string{key: value}, fmt.Sprintf("annotation %q", key)
	}
	write, err := c.find(ctx, w)
	if err == nil && write {
		err = c.setStatus(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("set %s of pod %s/%s: %w", what, pod.Namespace, pod.Name, err)
	}
	return nil
}

func (c *Client) setStatus(ctx context.Context, w *statusWrite) error {
	if c.update.needed(time.Now()) {
		err := c.updateStatus(ctx, w)
		if errors.Is(err, publish.ErrForbidden) {
			c.update.end() // the role has changed
		}
		return err
	}
	refused := c.patchStatus(ctx, w)
	if !errors.Is(refused, publish.ErrForbidden) {
		return refused
	}
	err := c.updateStatus(ctx, w)
	switch {
	case errors.Is(err, publish.ErrForbidden):
		return refused // the role should have the verb patch
	case err == nil, errors.Is(err, publish.ErrGone):
		c.update.begin(time.Now(), refused)
	}
	return err
}

type patchMetadata struct {
	UID             string            `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
}

// Emit records an event of the pod with one request. It cuts a message that is too long. The name of an event that is
// marked Seldom is derived from its content, so that it is not recorded again while the API server has it. Its errors
// are those of SetStatus.
func (c *Client) Emit(ctx context.Context, pod request.Pod, event publish.Event) error {
	if pod.Namespace == "" || pod.Name == "" {
		return errors.New("record event: namespace and name of the pod must not be empty")
	}
	if err := c.emit(ctx, newEvent(pod, event, time.Now()), event.Seldom); err != nil {
		return fmt.Errorf("record event %s about pod %s/%s: %w", event.Reason, pod.Namespace, pod.Name, err)
	}
	return nil
}

// EmitNode records an event of a node with one request. Like the kubelet, it uses the node's name as the UID and the
// namespace default, where `kubectl describe node` finds the event. Its errors are those of SetStatus.
func (c *Client) EmitNode(ctx context.Context, node string, event publish.Event) error {
	if node == "" {
		return errors.New("record event: name of the node must not be empty")
	}
	e := newEvent(request.Pod{Namespace: metav1.NamespaceDefault, Name: node, UID: node}, event, time.Now())
	e.InvolvedObject.Kind, e.InvolvedObject.Namespace = "Node", ""
	if err := c.emit(ctx, e, event.Seldom); err != nil {
		return fmt.Errorf("record event %s about node %s: %w", event.Reason, node, err)
	}
	return nil
}

func (c *Client) emit(ctx context.Context, e coreEvent, seldom bool) error {
	// The admission policy of the manifests compares the node with the token, so that the source of the event is reliable.
	node := c.node()
	e.Source.Host, e.ReportingInstance = node, node
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	t := target{verb: "create", resource: "events", namespace: e.Metadata.Namespace}
	err = c.events.Post().Namespace(t.namespace).Resource(t.resource).
		SetHeader("Accept", acceptMetadata).Body(body).MaxRetries(0).Do(ctx).Error()
	if err == nil || seldom && apierrors.IsAlreadyExists(err) {
		return nil
	}
	return publishError(t, err)
}

// coreEvent is the part of a core/v1 Event that Multus sets.
type coreEvent struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Namespace   string            `json:"namespace"`
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations,omitempty"`
	} `json:"metadata"`
	InvolvedObject struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Namespace  string `json:"namespace,omitempty"`
		Name       string `json:"name"`
		UID        string `json:"uid,omitempty"`
	} `json:"involvedObject"`
	Source struct {
		Component string `json:"component"`
		Host      string `json:"host,omitempty"`
	} `json:"source"`
	ReportingComponent string `json:"reportingComponent"`
	ReportingInstance  string `json:"reportingInstance,omitempty"`
	Type               string `json:"type"`
	Reason             string `json:"reason"`
	Message            string `json:"message"`
	Count              int    `json:"count"`
	FirstTimestamp     string `json:"firstTimestamp"`
	LastTimestamp      string `json:"lastTimestamp"`
}

func newEvent(pod request.Pod, event publish.Event, now time.Time) coreEvent {
	stamp := now.UTC().Format(time.RFC3339)
	// The message is cut before the name of the request, with which the whole text is found in the logs.
	event.Message = fault.Clip(event.Message, maxEventMessage-(len(event.Text())-len(event.Message)))
	e := coreEvent{
		APIVersion: "v1", Kind: "Event",
		ReportingComponent: component,
		Type:               event.Type, Reason: event.Reason, Message: event.Text(),
		Count: 1, FirstTimestamp: stamp, LastTimestamp: stamp,
	}
	e.Metadata.Namespace, e.Metadata.Name = pod.Namespace, eventName(pod.Name, eventID(pod, event, now))
	if event.ContainerID != "" {
		e.Metadata.Annotations = map[string]string{RequestAnnotation: event.ContainerID}
	}
	e.InvolvedObject.APIVersion, e.InvolvedObject.Kind = "v1", "Pod"
	e.InvolvedObject.Namespace, e.InvolvedObject.Name, e.InvolvedObject.UID = pod.Namespace, pod.Name, pod.UID
	e.Source.Component = component
	return e
}

// eventID returns a random ID and not the time, as client-go does, because thin plugins of one node run concurrently.
// For an event that is marked Seldom, it is a hash of the content and the minute.
func eventID(pod request.Pod, event publish.Event, now time.Time) (id [eventIDBytes]byte) {
	if event.Seldom {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d", pod.UID, event.Reason, event.Message,
			now.Truncate(seldom).Unix()))
		copy(id[:], sum[:])
		return id
	}
	_, _ = rand.Read(id[:]) // documented to never fail
	return id
}

// eventName returns <pod>.<hex>.
func eventName(pod string, id [eventIDBytes]byte) string {
	suffix := "." + hex.EncodeToString(id[:])
	if room := maxObjectName - len(suffix); len(pod) > room {
		// A label of a DNS name must not end with a hyphen.
		pod = strings.TrimRight(pod[:room], "-.")
	}
	return pod + suffix
}

// publishError maps the error of a write to the sentinel errors of package publish. It returns nil for nil.
func publishError(t target, err error) error {
	switch status := code(err); {
	case err == nil:
		return nil
	case status == http.StatusNotFound, uidDiffers(err):
		return fmt.Errorf("%w: %w", publish.ErrGone, err)
	case apierrors.HasStatusCause(err, namespaceTerminating):
		// Nothing can be created in the namespace any more, and its pods are deleted.
		return fmt.Errorf("%w: %w", publish.ErrGone, err)
	case status == http.StatusForbidden:
		return forbidden(t, err)
	case status == http.StatusConflict, transient(err):
		return fmt.Errorf("%w: %w", publish.ErrRetry, err)
	case status >= http.StatusBadRequest && status < http.StatusInternalServerError:
		return fmt.Errorf("%w: %w", publish.ErrRefused, err)
	}
	return err
}

// namespaceTerminating is NamespaceTerminatingCause of core/v1.
const namespaceTerminating metav1.CauseType = "NamespaceTerminating"

// uidDiffers reports whether the patch was refused because the name belongs to another pod now: the answer is 422 about
// the field metadata.uid. A 422 about another field, such as annotations that are too long, is an error of Multus.
func uidDiffers(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusUnprocessableEntity ||
		status.Status().Details == nil {
		return false
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Field == "metadata.uid" {
			return true
		}
	}
	return false
}
