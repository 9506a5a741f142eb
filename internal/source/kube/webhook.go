package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// admissionComponent is the source of events of the admission server.
const admissionComponent = "multus-admission"

// The kinds of webhook configurations.
const (
	Validating = "validatingwebhookconfigurations"
	Mutating   = "mutatingwebhookconfigurations"
)

// Secret is the content of a secret.
type Secret struct {
	Data map[string][]byte
	// Version is that of the object. An update with an older version is refused.
	Version string
}

// Secret reads a secret. The error wraps plan.ErrNotFound or plan.ErrUnavailable, or is a *ForbiddenError.
func (c *Client) Secret(ctx context.Context, ref plan.Ref) (*Secret, error) {
	var o struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Data map[string][]byte `json:"data"`
	}
	t := target{verb: "get", resource: "secrets", namespace: ref.Namespace, name: ref.Name}
	err := do(ctx, c.core.Get().Namespace(t.namespace).Resource(t.resource).Name(t.name).MaxRetries(0), &o, attemptTimeout)
	if err != nil {
		return nil, fmt.Errorf("get secret %s: %w", ref, lookupError(t, err))
	}
	return &Secret{Data: o.Data, Version: o.Metadata.ResourceVersion}, nil
}

// UpdateSecret replaces the data of a secret. The error wraps publish.ErrRetry if the secret has changed since it was
// read.
func (c *Client) UpdateSecret(ctx context.Context, ref plan.Ref, s *Secret) error {
	// A merge patch replaces the whole of data only if the keys that are gone are named. The version makes it a
	// compare-and-swap.
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]string{"resourceVersion": s.Version}, "data": s.Data,
	})
	if err != nil {
		return fmt.Errorf("encode secret: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	t := target{verb: "patch", resource: "secrets", namespace: ref.Namespace, name: ref.Name}
	err = c.core.Patch(types.MergePatchType).Namespace(t.namespace).Resource(t.resource).Name(t.name).
		SetHeader("Accept", acceptMetadata).Body(body).MaxRetries(0).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("update secret %s: %w", ref, publishError(t, err))
	}
	return nil
}

// Webhooks is a webhook configuration.
type Webhooks struct {
	kind, name, version string
	// Names are those of the webhooks, Bundles their caBundle and Services the namespace/name of their services.
	Names    []string
	Bundles  [][]byte
	Services []string
}

// Webhooks reads a webhook configuration of a kind. Its errors are those of Secret.
func (c *Client) Webhooks(ctx context.Context, kind, name string) (*Webhooks, error) {
	var o struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Webhooks []struct {
			Name         string `json:"name"`
			ClientConfig struct {
				CABundle []byte `json:"caBundle"`
				Service  struct {
					Namespace string `json:"namespace"`
					Name      string `json:"name"`
				} `json:"service"`
			} `json:"clientConfig"`
		} `json:"webhooks"`
	}
	exists, err := c.admission(ctx, kind, name, &o)
	if err == nil && !exists {
		err = fmt.Errorf("get %s %s: %w", kind, name, plan.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	w := &Webhooks{kind: kind, name: name, version: o.Metadata.ResourceVersion}
	for _, one := range o.Webhooks {
		w.Names = append(w.Names, one.Name)
		w.Bundles = append(w.Bundles, one.ClientConfig.CABundle)
		s := one.ClientConfig.Service
		w.Services = append(w.Services, plan.Ref{Namespace: s.Namespace, Name: s.Name}.String())
	}
	return w, nil
}

// SetBundle sets the caBundle of all webhooks of a configuration. The error wraps publish.ErrRetry if the configuration
// has changed since it was read.
func (c *Client) SetBundle(ctx context.Context, w *Webhooks, bundle []byte) error {
	type step struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	steps := []step{{"test", "/metadata/resourceVersion", w.version}}
	for i := range w.Names {
		if !bytes.Equal(w.Bundles[i], bundle) {
			steps = append(steps, step{"add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), bundle})
		}
	}
	if len(steps) == 1 {
		return nil
	}
	body, err := json.Marshal(steps)
	if err != nil {
		return fmt.Errorf("encode patch of %s: %w", w.kind, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	t := target{verb: "patch", group: "admissionregistration.k8s.io", resource: w.kind, name: w.name}
	err = c.core.Patch(types.JSONPatchType).AbsPath("/apis", t.group, "v1", t.resource, t.name).
		SetHeader("Accept", acceptMetadata).Body(body).MaxRetries(0).Do(ctx).Error()
	switch {
	case err == nil:
		return nil
	case code(err) == http.StatusUnprocessableEntity: // the test of the version failed
		err = fmt.Errorf("%w: %w", publish.ErrRetry, err)
	default:
		err = publishError(t, err)
	}
	return fmt.Errorf("set caBundle of %s %s: %w", w.kind, w.name, err)
}

// Terminating reports whether a namespace is being deleted. A namespace that does not exist counts. Its errors are
// those of Secret.
func (c *Client) Terminating(ctx context.Context, name string) (bool, error) {
	var o metav1.PartialObjectMetadata
	t := target{verb: "get", resource: "namespaces", name: name}
	decode := func(b []byte) error { return json.Unmarshal(b, &o) }
	err := lookupError(t, c.read(ctx, c.core, t, acceptMetadata, c.podRequests, decode))
	if errors.Is(err, plan.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("get namespace %s: %w", name, err)
	}
	return o.DeletionTimestamp != nil, nil
}

// EmitDefinition records a warning about a network definition with one request. The name of the event is derived from
// version, which identifies the state of the definition, so that several programs record it once. Its errors are those
// of SetStatus.
func (c *Client) EmitDefinition(ctx context.Context, ref plan.Ref, uid, version, reason, message string) error {
	e := newEvent(request.Pod{Namespace: ref.Namespace, Name: ref.Name, UID: uid},
		publish.Event{Type: "Warning", Reason: reason, Message: message}, time.Now())
	sum := sha256.Sum256([]byte(uid + " " + version))
	var id [eventIDBytes]byte
	copy(id[:], sum[:])
	e.Metadata.Name = eventName(ref.Name, id)
	e.InvolvedObject.APIVersion, e.InvolvedObject.Kind = nadv1.SchemeGroupVersion.String(), "NetworkAttachmentDefinition"
	e.Source.Component, e.ReportingComponent = admissionComponent, admissionComponent
	if err := c.emit(ctx, e, true); err != nil {
		return fmt.Errorf("record event %s about network definition %s: %w", reason, ref, err)
	}
	return nil
}

// ServiceAddress returns the cluster address of a service and its first port. Its errors are those of Secret.
func (c *Client) ServiceAddress(ctx context.Context, ref plan.Ref) (string, error) {
	var o struct {
		Spec struct {
			ClusterIP string `json:"clusterIP"`
			Ports     []struct {
				Port int `json:"port"`
			} `json:"ports"`
		} `json:"spec"`
	}
	t := target{verb: "get", resource: "services", namespace: ref.Namespace, name: ref.Name}
	err := do(ctx, c.core.Get().Namespace(t.namespace).Resource(t.resource).Name(t.name).MaxRetries(0), &o, reviewTimeout)
	if err != nil {
		return "", fmt.Errorf("get service %s: %w", ref, lookupError(t, err))
	}
	if o.Spec.ClusterIP == "" || o.Spec.ClusterIP == "None" || len(o.Spec.Ports) == 0 {
		return "", fmt.Errorf("get service %s: it has no address", ref)
	}
	return net.JoinHostPort(o.Spec.ClusterIP, strconv.Itoa(o.Spec.Ports[0].Port)), nil
}
