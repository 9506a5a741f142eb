package file

import (
	"context"
	"errors"
	"maps"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// Networks returns all definitions, in the order of the files. If some documents cannot be decoded, it returns the
// other definitions and an error.
func (s *Source) Networks(ctx context.Context) ([]plan.Definition, error) {
	var out []plan.Definition
	err := s.each(ctx, kindNetwork, func(o *object, ref plan.Ref) {
		out = append(out, plan.Definition{
			Ref: ref, Config: o.Spec.Config,
			ResourceName: o.Metadata.Annotations[netsel.ResourceName],
		})
	})
	return out, err
}

// Pods returns all pods, with the errors of Networks.
func (s *Source) Pods(ctx context.Context) ([]plan.Pod, error) {
	var out []plan.Pod
	err := s.each(ctx, kindPod, func(o *object, ref plan.Ref) {
		out = append(out, plan.Pod{Ref: ref, UID: o.Metadata.UID, Annotations: maps.Clone(o.Metadata.Annotations)})
	})
	return out, err
}

func (s *Source) each(ctx context.Context, kind string, visit func(*object, plan.Ref)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	files, err := s.read()
	if err != nil {
		return err
	}
	var problems []error
	for _, f := range files {
		problems = append(problems, f.problems...)
		for i := range f.objects {
			if o := &f.objects[i]; o.Kind == kind {
				visit(o, plan.Ref{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name})
			}
		}
	}
	return errors.Join(problems...)
}
