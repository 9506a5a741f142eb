package kube

import (
	"context"
	"fmt"

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

// ExtendedResources returns the names of the extended resources whose devices a ResourceClaim requests: those of the
// DeviceClasses that the claim, or the template, names. Its errors are those of ConfigMap.
func (c *Client) ExtendedResources(ctx context.Context, namespace, claim, template string) ([]string, error) {
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
	get := c.resources.Get().Namespace(namespace).Resource(t.resource).Name(t.name).MaxRetries(0)
	if err := do(ctx, get, &o, attemptTimeout); err != nil {
		return nil, fmt.Errorf("get %s %s/%s: %w", t.resource, namespace, t.name, lookupError(t, err))
	}
	classes := map[string]bool{}
	for _, part := range []deviceRequests{o.Spec.deviceRequests, o.Spec.Spec} {
		for _, r := range part.Devices.Requests {
			classes[r.Exactly.DeviceClassName] = true
			for _, one := range r.FirstAvailable {
				classes[one.DeviceClassName] = true
			}
		}
	}
	delete(classes, "")
	var names []string
	for class := range classes {
		name, err := c.extendedResource(ctx, class)
		if err != nil {
			return nil, err
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}

// extendedResource returns the name of the extended resource that a DeviceClass serves, or "".
func (c *Client) extendedResource(ctx context.Context, class string) (string, error) {
	var o struct {
		Spec struct {
			ExtendedResourceName string `json:"extendedResourceName"`
		} `json:"spec"`
	}
	t := target{verb: "get", group: resourceVersion.Group, resource: "deviceclasses", name: class}
	if err := do(ctx, c.resources.Get().Resource(t.resource).Name(class).MaxRetries(0), &o, attemptTimeout); err != nil {
		return "", fmt.Errorf("get DeviceClass %s: %w", class, lookupError(t, err))
	}
	return o.Spec.ExtendedResourceName, nil
}
