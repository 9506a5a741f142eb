// Package file reads network definitions and pods from a directory of YAML and JSON files, and writes the network
// statuses and events of pods to another directory. With it Multus works, and can be tried, without Kubernetes.
//
// The package watches nothing: each lookup reads the directory as it is. It makes no decisions about networks. The
// process edges (internal/host, internal/cli) may import it, the engine may not.
package file

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/netsel"
)

// DefaultNamespace is the namespace of an object without metadata.namespace.
const DefaultNamespace = "default"

// Options say where a Source reads and writes.
type Options struct {
	// Dir is the directory of the definitions and pods: *.yaml, *.yml and *.json, without subdirectories and hidden files.
	Dir string
	// Files are read instead of those of Dir, in this order.
	Files []string
	// Contents has, by name, the contents of those Files that were already read, such as standard input.
	Contents map[string][]byte
	// StateDir is the directory for <namespace>_<name>.json (annotations) and <namespace>_<name>.events.jsonl. It is
	// created at the first write.
	StateDir string
}

// Source is a directory that replaces the Kubernetes API. It is safe for concurrent use.
type Source struct {
	options Options

	// mu guards files, which has the decoded files.
	mu    sync.Mutex
	files map[string]*decoded // by path
}

var (
	_ plan.Networks   = (*Source)(nil)
	_ plan.Pods       = (*Source)(nil)
	_ publish.Cluster = (*Source)(nil)
)

// New returns a Source. It reads nothing: if the directory does not exist, each lookup returns an error.
func New(o Options) *Source {
	return &Source{options: o, files: map[string]*decoded{}}
}

// Network returns the definition of that name. The error wraps plan.ErrNotFound if all files could be read and none has
// the definition. A document that cannot be decoded is an error only if no other document has the definition.
func (s *Source) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	o, err := s.find(ctx, kindNetwork, ref)
	if err != nil {
		return nil, fmt.Errorf("find network definition %s: %w", ref, err)
	}
	return &plan.Definition{Ref: ref, Config: o.Spec.Config, ResourceName: o.Metadata.Annotations[netsel.ResourceName]},
		nil
}

// Pod returns the metadata of the pod of that name. Its errors are those of Network.
func (s *Source) Pod(ctx context.Context, ref plan.Ref) (*plan.Pod, error) {
	o, err := s.find(ctx, kindPod, ref)
	if err != nil {
		return nil, fmt.Errorf("find pod %s: %w", ref, err)
	}
	annotations := make(map[string]string, len(o.Metadata.Annotations)) // a copy, because the decoded file is shared
	maps.Copy(annotations, o.Metadata.Annotations)
	return &plan.Pod{Ref: ref, UID: o.Metadata.UID, Annotations: annotations}, nil
}

// HostNetwork reports whether the pod of that name uses the network of its node. Its errors are those of Network.
func (s *Source) HostNetwork(ctx context.Context, ref plan.Ref) (bool, error) {
	o, err := s.find(ctx, kindPod, ref)
	if err != nil {
		return false, fmt.Errorf("find pod %s: %w", ref, err)
	}
	return o.Spec.HostNetwork, nil
}

// find searches all files, in the order of their names.
func (s *Source) find(ctx context.Context, kind string, ref plan.Ref) (*object, error) {
	if ref.Namespace == "" || ref.Name == "" {
		return nil, errors.New("namespace and name must not be empty")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	files, err := s.read()
	if err != nil {
		return nil, err
	}
	var found *object
	var where []string
	var problems []error
	for _, f := range files {
		problems = append(problems, f.problems...)
		for i := range f.objects {
			o := &f.objects[i]
			if o.Kind == kind && o.Metadata.Namespace == ref.Namespace && o.Metadata.Name == ref.Name {
				found, where = o, append(where, fmt.Sprintf("%s (document %d)", f.path, o.document))
			}
		}
	}
	switch {
	case len(where) > 1:
		return nil, fmt.Errorf("defined more than once: %s; remove all but one", strings.Join(where, ", "))
	case found != nil:
		return found, nil
	case len(problems) > 0:
		// An unreadable document may have the object, so that "not found" would be a guess.
		return nil, fmt.Errorf("not in the readable %s, and not all are readable: %w", s.options, errors.Join(problems...))
	}
	return nil, fmt.Errorf("%w in the %s", plan.ErrNotFound, s.options)
}

// String returns the files that are read, for error messages.
func (o Options) String() string {
	if len(o.Files) > 0 {
		return "files " + strings.Join(o.Files, ", ")
	}
	return fmt.Sprintf("files of %q", o.Dir)
}
