// Package file reads network attachment definitions and pods from a directory of YAML and JSON files, and writes
// the status and events of pods to another, so that Multus works, and can be tried, without Kubernetes.
//
// It is not a watcher and not a client of anything: each look-up sees the directory as it is. It decides nothing
// about networks. Process edges (internal/host, internal/cli) may import it; the engine may not.
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
)

// DefaultNamespace is that of an object whose metadata names none.
const DefaultNamespace = "default"

// Options say where a Source reads and writes.
type Options struct {
	// Dir holds the definitions and pods: *.yaml, *.yml and *.json, sub-directories and hidden files aside.
	Dir string
	// Files are read in place of those of Dir, in this order.
	Files []string
	// Contents are those of Files that have been read already, such as standard input, by name.
	Contents map[string][]byte
	// StateDir receives <namespace>_<name>.json (annotations) and <namespace>_<name>.events.jsonl. It is made
	// when needed.
	StateDir string
}

// Source is a directory in place of the Kubernetes API. It may be used by many goroutines.
type Source struct {
	options Options

	// mu guards files: what was decoded.
	mu    sync.Mutex
	files map[string]*decoded // by path
}

var (
	_ plan.Networks   = (*Source)(nil)
	_ plan.Pods       = (*Source)(nil)
	_ publish.Cluster = (*Source)(nil)
)

// New makes a source. Nothing is read yet; a directory that does not exist is an error of each look-up.
func New(o Options) *Source {
	return &Source{options: o, files: map[string]*decoded{}}
}

// Network returns the definition of that name. The error wraps plan.ErrNotFound when all files could be read and
// none has it. A document that cannot be read is an error only where the definition is in no other one.
func (s *Source) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	o, err := s.find(ctx, kindNetwork, ref)
	if err != nil {
		return nil, fmt.Errorf("find network definition %s: %w", ref, err)
	}
	return &plan.Definition{Ref: ref, Config: o.Spec.Config, ResourceName: o.Metadata.Annotations[resourceAnno]}, nil
}

// Pod returns the metadata of the pod of that name. Errors are those of Network.
func (s *Source) Pod(ctx context.Context, ref plan.Ref) (*plan.Pod, error) {
	o, err := s.find(ctx, kindPod, ref)
	if err != nil {
		return nil, fmt.Errorf("find pod %s: %w", ref, err)
	}
	annotations := make(map[string]string, len(o.Metadata.Annotations)) // the decoded file stays ours
	maps.Copy(annotations, o.Metadata.Annotations)
	return &plan.Pod{Ref: ref, UID: o.Metadata.UID, Annotations: annotations}, nil
}

// HostNetwork reports whether the pod of that name is in the network of its node. Errors are those of Network.
func (s *Source) HostNetwork(ctx context.Context, ref plan.Ref) (bool, error) {
	o, err := s.find(ctx, kindPod, ref)
	if err != nil {
		return false, fmt.Errorf("find pod %s: %w", ref, err)
	}
	return o.Spec.HostNetwork, nil
}

// find looks through all files, in the order of their names.
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
		// It may be in what cannot be read, so "not found" would be a guess.
		return nil, fmt.Errorf("not in the readable %s, and not all are readable: %w", s.options, errors.Join(problems...))
	}
	return nil, fmt.Errorf("%w in the %s", plan.ErrNotFound, s.options)
}

// String names the files that are read.
func (o Options) String() string {
	if len(o.Files) > 0 {
		return "files " + strings.Join(o.Files, ", ")
	}
	return fmt.Sprintf("files of %q", o.Dir)
}
