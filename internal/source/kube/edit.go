package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/engine/plan"
)

// The calls of this file are those of command line tools, with the permissions of their user.

// editTimeout limits an edit with all of its attempts.
const editTimeout = 30 * time.Second

// EditAnnotation changes an annotation of a pod: it reads the pod, calls edit, which returns the new value, and writes
// that value with one PATCH of the pod. The PATCH has the UID and the resourceVersion that were read. If another client
// has changed the pod meanwhile, EditAnnotation begins again, so edit may be called several times. An error of edit is
// returned unchanged, and nothing is written. The other errors are those of Pod, or wrap those of package publish.
func (c *Client) EditAnnotation(ctx context.Context, ref plan.Ref, key string,
	edit func(pod *plan.Pod) (string, error),
) error {
	ctx, cancel := context.WithTimeoutCause(ctx, editTimeout, fmt.Errorf("it took longer than %s", editTimeout))
	defer cancel()
	get := target{verb: "get", resource: "pods", namespace: ref.Namespace, name: ref.Name}
	patch := get
	patch.verb = "patch"
	for try := 1; ; try++ {
		o, err := c.lookup(ctx, c.core, get, acceptMetadata)
		if err != nil {
			return fmt.Errorf("get pod %s: %w", ref, err)
		}
		value, err := edit(o.pod(ref))
		if err != nil {
			return err
		}
		err = c.patchPod(ctx, patch, types.MergePatchType, statusPatch{Metadata: patchMetadata{
			UID: o.Metadata.UID, ResourceVersion: o.Metadata.ResourceVersion, Annotations: map[string]string{key: value},
		}}, nil)
		if code(err) == http.StatusConflict && try < updateTries {
			continue
		}
		if err = publishError(patch, err); err != nil {
			return fmt.Errorf("set annotation %q of pod %s: %w", key, ref, err)
		}
		return nil
	}
}

// patchPod sends one PATCH of a pod. If see is set, it is called with the whole pod after the patch.
func (c *Client) patchPod(ctx context.Context, t target, kind types.PatchType, patch statusPatch,
	see func([]byte) error,
) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	r := c.core.Patch(kind).Namespace(t.namespace).Resource(t.resource).Name(t.name).SubResource(t.subresource).
		Body(body).MaxRetries(0)
	if see != nil {
		return c.receive(ctx, r.SetHeader("Accept", runtime.ContentTypeJSON), see)
	}
	return r.SetHeader("Accept", acceptMetadata).Do(ctx).Error()
}

// PodEvent is an event about a pod.
type PodEvent struct {
	// ID identifies the event and how often it was recorded.
	ID              string
	Reason, Message string
}

// PodEvents returns the events about a pod, including those about earlier pods of that name. Its errors are those of
// Pod.
func (c *Client) PodEvents(ctx context.Context, ref plan.Ref) ([]PodEvent, error) {
	if ref.Namespace == "" || ref.Name == "" {
		return nil, errors.New("list events: namespace and name of the pod must not be empty")
	}
	about := fields.Set{"involvedObject.kind": "Pod", "involvedObject.name": ref.Name}.AsSelector().String()
	var out []PodEvent
	t := target{verb: "list", resource: "events", namespace: ref.Namespace}
	err := list(ctx, c.core, t, runtime.ContentTypeJSON, about, func(o *object) {
		out = append(out, PodEvent{
			ID: o.Metadata.UID + " " + o.Metadata.ResourceVersion, Reason: o.Reason, Message: o.Message,
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list events of pod %s: %w", ref, err)
	}
	return out, nil
}

// Placement returns the name of the node to which a pod is bound, or "" for none, and whether the pod uses the network
// of the node. It reads the whole pod. Its retries and errors are those of Pod.
func (c *Client) Placement(ctx context.Context, ref plan.Ref) (node string, hostNetwork bool, err error) {
	t := target{verb: "get", resource: "pods", namespace: ref.Namespace, name: ref.Name}
	o, err := c.lookup(ctx, c.core, t, runtime.ContentTypeJSON)
	if err != nil {
		return "", false, fmt.Errorf("get pod %s: %w", ref, err)
	}
	return o.Spec.NodeName, o.Spec.HostNetwork, nil
}
