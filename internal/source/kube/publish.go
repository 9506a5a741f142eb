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
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/engine/publish"
	"multus/internal/fault"
)

// Limits of writes. They are tried once: who publishes keeps a queue and decides when to try again.
const (
	patchTimeout = 5 * time.Second
	eventTimeout = 5 * time.Second

	maxObjectName   = 253  // DNS subdomain
	maxEventMessage = 1024 // what events.k8s.io/v1 allows
	eventIDBytes    = 8
	// seldom is how often an event is recorded that is told seldom.
	seldom = time.Minute

	component = "multus" // behaviour.md A45
)

// RequestAnnotation is the annotation of an event that names its request, by the sandbox's container ID in full.
const RequestAnnotation = "multus/container-id"

var _ publish.Cluster = (*Client)(nil)

// SetAnnotation sets one annotation of a pod, by one request: a merge PATCH of pods/status. The UID, where known, is
// part of the patch: the API server refuses to change a UID, so that a new pod of the same name never gets the status
// of its predecessor. Where the role has no verb patch, as in today's manifests, it is a GET and a PUT of the same
// object. Errors wrap publish.ErrGone, publish.ErrRetry, publish.ErrRefused, or are a *ForbiddenError where that
// applies.
func (c *Client) SetAnnotation(ctx context.Context, pod publish.Pod, key, value string) error {
	if pod.Namespace == "" || pod.Name == "" {
		return errors.New("set annotation: namespace and name of the pod must not be empty")
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	if err := c.setAnnotation(ctx, pod, key, value); err != nil {
		return fmt.Errorf("set annotation %q of pod %s/%s: %w", key, pod.Namespace, pod.Name, err)
	}
	return nil
}

func (c *Client) setAnnotation(ctx context.Context, pod publish.Pod, key, value string) error {
	if c.update.needed(time.Now()) {
		err := c.updateAnnotation(ctx, pod, key, value)
		if errors.Is(err, publish.ErrForbidden) {
			c.update.end() // the role has changed
		}
		return err
	}
	refused := c.patchAnnotation(ctx, pod, key, value)
	if !errors.Is(refused, publish.ErrForbidden) {
		return refused
	}
	err := c.updateAnnotation(ctx, pod, key, value)
	switch {
	case errors.Is(err, publish.ErrForbidden):
		return refused // the role should have the verb patch
	case err == nil, errors.Is(err, publish.ErrGone):
		c.update.begin(time.Now(), refused)
	}
	return err
}

func (c *Client) patchAnnotation(ctx context.Context, pod publish.Pod, key, value string) error {
	metadata := patchMetadata{UID: pod.UID, Annotations: map[string]string{key: value}}
	patch, err := json.Marshal(annotationPatch{Metadata: metadata})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	t := target{verb: "patch", resource: "pods", subresource: "status", namespace: pod.Namespace, name: pod.Name}
	return publishError(t, c.core.Patch(types.MergePatchType).Namespace(t.namespace).Resource(t.resource).Name(t.name).
		SubResource(t.subresource).SetHeader("Accept", acceptMetadata).Body(patch).MaxRetries(0).Do(ctx).Error())
}

type annotationPatch struct {
	Metadata patchMetadata `json:"metadata"`
}

type patchMetadata struct {
	UID         string            `json:"uid,omitempty"`
	Annotations map[string]string `json:"annotations"`
}

// Emit records an event about the pod by one request. A message that is too long is cut. One that is told seldom has a
// name that says so, and is not recorded again while the API server has it. Errors are those of SetAnnotation.
func (c *Client) Emit(ctx context.Context, pod publish.Pod, event publish.Event) error {
	if pod.Namespace == "" || pod.Name == "" {
		return errors.New("record event: namespace and name of the pod must not be empty")
	}
	if err := c.emit(ctx, newEvent(pod, event, time.Now()), event.Seldom); err != nil {
		return fmt.Errorf("record event %s about pod %s/%s: %w", event.Reason, pod.Namespace, pod.Name, err)
	}
	return nil
}

// EmitNode records an event about a node by one request, where `kubectl describe node` finds it: with the name as UID,
// in the namespace default, as the kubelet does. Errors are those of SetAnnotation.
func (c *Client) EmitNode(ctx context.Context, node string, event publish.Event) error {
	if node == "" {
		return errors.New("record event: name of the node must not be empty")
	}
	e := newEvent(publish.Pod{Namespace: metav1.NamespaceDefault, Name: node, UID: node}, event, time.Now())
	e.InvolvedObject.Kind, e.InvolvedObject.Namespace = "Node", ""
	if err := c.emit(ctx, e, event.Seldom); err != nil {
		return fmt.Errorf("record event %s about node %s: %w", event.Reason, node, err)
	}
	return nil
}

func (c *Client) emit(ctx context.Context, e coreEvent, seldom bool) error {
	// The admission policy of the manifests compares it with the token, so that the event shows whose it is.
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

// coreEvent is the part of a core/v1 Event that Multus fills.
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

func newEvent(pod publish.Pod, event publish.Event, now time.Time) coreEvent {
	stamp := now.UTC().Format(time.RFC3339)
	// What is too long is cut before the request's name: that finds the whole text in the logs.
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

// eventID is random, not the time as in client-go: thin plugins of one node run at the same time and know nothing of
// each other. That of an event that is told seldom is made of what it says, and of the minute.
func eventID(pod publish.Pod, event publish.Event, now time.Time) (id [eventIDBytes]byte) {
	if event.Seldom {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d", pod.UID, event.Reason, event.Message,
			now.Truncate(seldom).Unix()))
		copy(id[:], sum[:])
		return id
	}
	_, _ = rand.Read(id[:]) // never fails, by its contract
	return id
}

// eventName is <pod>.<hex>.
func eventName(pod string, id [eventIDBytes]byte) string {
	suffix := "." + hex.EncodeToString(id[:])
	if room := maxObjectName - len(suffix); len(pod) > room {
		// A label of a DNS name must not end with a hyphen.
		pod = strings.TrimRight(pod[:room], "-.")
	}
	return pod + suffix
}

// publishError maps the error of a write, or nil, to the sentinels of package publish.
func publishError(t target, err error) error {
	switch status := code(err); {
	case err == nil:
		return nil
	case status == http.StatusNotFound, uidDiffers(err):
		return fmt.Errorf("%w: %w", publish.ErrGone, err)
	case apierrors.HasStatusCause(err, namespaceTerminating):
		// Nothing can be created in it any more; the pods go with it.
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

// namespaceTerminating is core/v1 NamespaceTerminatingCause.
const namespaceTerminating metav1.CauseType = "NamespaceTerminating"

// uidDiffers tells that the patch was refused because another pod has the name now: 422 about the field
// metadata.uid. A 422 about anything else (annotations too long) is an error of ours.
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
