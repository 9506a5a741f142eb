package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// PodState is the part of a pod object on which it depends whether the pod may be evicted.
type PodState struct {
	UID string
	// Running reports whether the pod has a sandbox, and HostNetwork whether it uses the network of its node.
	Running, HostNetwork bool
	// Controlled reports whether a controller creates the pod again. Static reports whether it is the mirror pod of a
	// static pod, and Ending whether it was deleted and still runs.
	Controlled, Static, Ending bool
}

// PodState reads a whole pod, without retries. The error wraps plan.ErrNotFound or plan.ErrUnavailable, or is a
// *ForbiddenError.
func (c *Client) PodState(ctx context.Context, ref plan.Ref) (*PodState, error) {
	var o struct {
		Metadata struct {
			UID               string            `json:"uid"`
			Annotations       map[string]string `json:"annotations"`
			DeletionTimestamp string            `json:"deletionTimestamp"`
			OwnerReferences   []struct {
				Controller bool `json:"controller"`
			} `json:"ownerReferences"`
		} `json:"metadata"`
		Spec struct {
			HostNetwork bool `json:"hostNetwork"`
		} `json:"spec"`
		Status struct {
			Phase string `json:"phase"`
			PodIP string `json:"podIP"`
		} `json:"status"`
	}
	t := target{verb: "get", resource: "pods", namespace: ref.Namespace, name: ref.Name}
	decode := func(b []byte) error { return json.Unmarshal(b, &o) }
	if err := c.read(ctx, c.core, t, runtime.ContentTypeJSON, c.podRequests, decode); err != nil {
		return nil, fmt.Errorf("get pod %s: %w", ref, lookupError(t, err))
	}
	state := &PodState{
		UID: o.Metadata.UID, HostNetwork: o.Spec.HostNetwork, Ending: o.Metadata.DeletionTimestamp != "",
		Running: o.Status.Phase == "Running" || o.Status.PodIP != "",
		Static:  (&plan.Pod{Annotations: o.Metadata.Annotations}).IsStatic(),
	}
	for _, owner := range o.Metadata.OwnerReferences {
		state.Controlled = state.Controlled || owner.Controller
	}
	return state, nil
}

// Evict requests the eviction of a pod, which the API server refuses while a PodDisruptionBudget does not permit it.
// The error wraps publish.ErrGone if the pod is gone, publish.ErrRetry if the same call may succeed later, or
// publish.ErrForbidden.
func (c *Client) Evict(ctx context.Context, pod request.Pod) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "policy/v1", "kind": "Eviction",
		"metadata":      map[string]string{"namespace": pod.Namespace, "name": pod.Name},
		"deleteOptions": map[string]any{"preconditions": map[string]string{"uid": pod.UID}},
	})
	if err != nil {
		return fmt.Errorf("encode eviction: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	t := target{verb: "create", resource: "pods", subresource: "eviction", namespace: pod.Namespace, name: pod.Name}
	err = c.core.Post().Namespace(t.namespace).Resource(t.resource).Name(t.name).SubResource(t.subresource).
		Body(body).MaxRetries(0).Do(ctx).Error()
	if code(err) == http.StatusTooManyRequests {
		return fmt.Errorf("%w: %w", publish.ErrRetry, err)
	}
	return publishError(t, err)
}

// NamespaceAnnotations reads the annotations of a namespace, without retries. Its errors are those of PodState.
func (c *Client) NamespaceAnnotations(ctx context.Context, name string) (map[string]string, error) {
	var o object
	t := target{verb: "get", resource: "namespaces", name: name}
	decode := func(b []byte) error { return json.Unmarshal(b, &o) }
	if err := c.read(ctx, c.core, t, acceptMetadata, c.podRequests, decode); err != nil {
		return nil, fmt.Errorf("get namespace %s: %w", name, lookupError(t, err))
	}
	return o.Metadata.Annotations, nil
}
