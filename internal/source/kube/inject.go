package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"

	"multus/internal/engine/plan"
)

// The calls of this file are those of the admission server for resource injection.

// ConfigMap reads the data of a ConfigMap. The error wraps plan.ErrNotFound or plan.ErrUnavailable, or is a
// *ForbiddenError.
func (c *Client) ConfigMap(ctx context.Context, ref plan.Ref) (map[string]string, error) {
	var o struct {
		Data map[string]string `json:"data"`
	}
	t := target{verb: "get", resource: "configmaps", namespace: ref.Namespace, name: ref.Name}
	err := do(ctx, c.core.Get().Namespace(t.namespace).Resource(t.resource).Name(t.name).MaxRetries(0), &o, attemptTimeout)
	if err != nil {
		return nil, fmt.Errorf("get configmap %s: %w", ref, lookupError(t, err))
	}
	return o.Data, nil
}

// deviceRequests is the part of a ResourceClaim or of a ResourceClaimTemplate that names DeviceClasses.
type deviceRequests struct {
	Devices struct {
		Requests []struct {
			Exactly struct {
				DeviceClassName string `json:"deviceClassName"`
			} `json:"exactly"`
			FirstAvailable []struct {
				DeviceClassName string `json:"deviceClassName"`
			} `json:"firstAvailable"`
		} `json:"requests"`
	} `json:"devices"`
}

// DeviceClasses returns the names of the DeviceClasses that a ResourceClaim, or else a ResourceClaimTemplate, requests,
// in their order there. Its errors are those of ConfigMap.
func (c *Client) DeviceClasses(ctx context.Context, namespace, claim, template string) ([]string, error) {
	var o struct {
		Spec struct {
			deviceRequests

			Spec deviceRequests `json:"spec"` // of a template
		} `json:"spec"`
	}
	t := target{verb: "get", group: resourceVersion.Group, resource: "resourceclaims", namespace: namespace, name: claim}
	if claim == "" {
		t.resource, t.name = "resourceclaimtemplates", template
	}
	if err := c.readResource(ctx, t, &o); err != nil {
		return nil, fmt.Errorf("get %s %s/%s: %w", t.resource, namespace, t.name, err)
	}
	var classes []string
	for _, part := range []deviceRequests{o.Spec.deviceRequests, o.Spec.Spec} {
		for _, r := range part.Devices.Requests {
			classes = append(classes, r.Exactly.DeviceClassName)
			for _, one := range r.FirstAvailable {
				classes = append(classes, one.DeviceClassName)
			}
		}
	}
	// A request has one of the two.
	return slices.DeleteFunc(classes, func(class string) bool { return class == "" }), nil
}

// ExtendedResource returns the name of the extended resource that a DeviceClass serves, or "". Its errors are those of
// ConfigMap.
func (c *Client) ExtendedResource(ctx context.Context, class string) (string, error) {
	var o struct {
		Spec struct {
			ExtendedResourceName string `json:"extendedResourceName"`
		} `json:"spec"`
	}
	t := target{verb: "get", group: resourceVersion.Group, resource: "deviceclasses", name: class}
	if err := c.readResource(ctx, t, &o); err != nil {
		return "", fmt.Errorf("get DeviceClass %s: %w", class, err)
	}
	return o.Spec.ExtendedResourceName, nil
}

// readResource decodes an object of resource.k8s.io.
func (c *Client) readResource(ctx context.Context, t target, into any) error {
	decode := func(b []byte) error { return json.Unmarshal(b, into) }
	return lookupError(t, c.read(ctx, c.resources, t, runtime.ContentTypeJSON, c.podRequests, decode))
}
