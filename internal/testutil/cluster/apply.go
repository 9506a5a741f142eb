package cluster

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"multus/internal/testutil/kubectl"
)

// applyTimeout bounds Apply. The API server needs a moment before it serves the objects of a new CRD.
const applyTimeout = 30 * time.Second

// Render returns the objects that a kustomization renders to.
func Render(dir string) ([]*unstructured.Unstructured, error) {
	rm, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", dir, err)
	}
	var all []*unstructured.Unstructured
	for _, r := range rm.Resources() {
		b, err := r.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", dir, err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(b); err != nil {
			return nil, fmt.Errorf("render %s: %w", dir, err)
		}
		all = append(all, u)
	}
	return all, nil
}

// Kustomize applies what a kustomization renders, as `kubectl apply --server-side -k` does.
func (c *Cluster) Kustomize(ctx context.Context, dir string) error {
	all, err := Render(dir)
	if err != nil {
		return err
	}
	for _, u := range all {
		b, err := u.MarshalJSON()
		if err != nil {
			return fmt.Errorf("render %s: %w", dir, err)
		}
		if err := c.Apply(ctx, string(b)); err != nil {
			return err
		}
	}
	return nil
}

// ApplyClientSide applies one object as `kubectl apply` does without --server-side.
func (c *Cluster) ApplyClientSide(ctx context.Context, u *unstructured.Unstructured) error {
	to, err := c.resource(u)
	if err != nil {
		return fmt.Errorf("find resource of %s: %w", u.GetKind(), err)
	}
	return kubectl.Apply(ctx, to, u)
}

// Apply applies one object in YAML or JSON, as `kubectl apply --server-side --validate=strict` does.
func (c *Cluster) Apply(ctx context.Context, text string) error {
	b, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return fmt.Errorf("parse object: %w", err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(b); err != nil {
		return fmt.Errorf("parse object: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	return c.poll(ctx, "the API server to take "+u.GetKind()+" "+u.GetName(), func() error {
		to, err := c.resource(u)
		if err != nil {
			return err
		}
		force := true
		o := metav1.PatchOptions{FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict}
		_, err = to.Patch(ctx, u.GetName(), types.ApplyPatchType, b, o)
		return err
	})
}

// Delete deletes one object. Objects that it owns are deleted in the background.
func (c *Cluster) Delete(ctx context.Context, u *unstructured.Unstructured) error {
	to, err := c.resource(u)
	if err != nil {
		return fmt.Errorf("find resource of %s: %w", u.GetKind(), err)
	}
	return to.Delete(ctx, u.GetName(), metav1.DeleteOptions{})
}

func (c *Cluster) resource(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := u.GroupVersionKind()
	m, err := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Client.Discovery())).RESTMapping(
		kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	if ns := u.GetNamespace(); ns != "" {
		return c.Dynamic.Resource(m.Resource).Namespace(ns), nil
	}
	return c.Dynamic.Resource(m.Resource), nil
}
