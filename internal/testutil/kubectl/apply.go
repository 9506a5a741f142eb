// Package kubectl applies objects as kubectl does without --server-side: with three-way merges that depend on the
// last-applied-configuration annotation. Only tests may import it.
package kubectl

import (
	"context"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// Read returns the objects of a manifest, in their order.
func Read(file string) ([]*unstructured.Unstructured, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	var all []*unstructured.Unstructured
	for text := range strings.SplitSeq(string(b), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(text), &u.Object); err != nil {
			return nil, fmt.Errorf("parse object %d of %s: %w", len(all)+1, file, err)
		}
		all = append(all, u)
	}
	return all, nil
}

// Apply applies u as `kubectl apply -f` does. Fields that were applied before and are missing in u are removed. Fields
// of other writers stay.
func Apply(ctx context.Context, to dynamic.ResourceInterface, u *unstructured.Unstructured) error {
	modified, err := withLastApplied(u)
	if err != nil {
		return err
	}
	current, err := to.Get(ctx, u.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = to.Create(ctx, modified, metav1.CreateOptions{FieldManager: "kubectl-client-side-apply"})
		return err
	}
	if err != nil {
		return fmt.Errorf("get %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	kind, patch, err := merge(modified, current)
	if err != nil {
		return fmt.Errorf("merge %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	if _, err := to.Patch(ctx, u.GetName(), kind, patch,
		metav1.PatchOptions{FieldManager: "kubectl-client-side-apply"}); err != nil {
		return fmt.Errorf("patch %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

// withLastApplied returns a copy of u with the last-applied-configuration annotation.
func withLastApplied(u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	b, err := u.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	modified := u.DeepCopy()
	annotations := modified.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[corev1.LastAppliedConfigAnnotation] = string(b)
	modified.SetAnnotations(annotations)
	return modified, nil
}

// merge returns the patch, and the type of patch that the API server supports for the object.
func merge(modified, current *unstructured.Unstructured) (types.PatchType, []byte, error) {
	original := []byte(current.GetAnnotations()[corev1.LastAppliedConfigAnnotation])
	after, err := modified.MarshalJSON()
	if err != nil {
		return "", nil, err
	}
	before, err := current.MarshalJSON()
	if err != nil {
		return "", nil, err
	}
	typed, err := scheme.Scheme.New(modified.GroupVersionKind())
	if runtime.IsNotRegisteredError(err) {
		patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(original, after, before)
		return types.MergePatchType, patch, err
	}
	if err != nil {
		return "", nil, err
	}
	lookup, err := strategicpatch.NewPatchMetaFromStruct(typed)
	if err != nil {
		return "", nil, err
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(original, after, before, lookup, true)
	return types.StrategicMergePatchType, patch, err
}
