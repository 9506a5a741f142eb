package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/fsx"
)

const (
	stateDirPerm  = 0o755
	stateFilePerm = 0o644
	// maxEvents is the size at which a pod's file of events is put aside, replacing the one put aside before.
	maxEvents = 1 << 20
	// lockTimeout limits the wait for another process that writes the state of the same pod.
	lockTimeout = 2 * time.Second
	// lockName is the file whose parts are locked, one per pod.
	lockName = ".lock"
)

// SetAnnotation writes the annotation into the pod's state file, beside those written before. The error wraps
// publish.ErrGone when the directory of definitions has a pod of that name with another UID, and
// publish.ErrRetry when another process holds the file. A pod that no file describes is written all the same:
// what the runtime starts need not be described.
func (s *Source) SetAnnotation(ctx context.Context, pod publish.Pod, key, value string) error {
	base, err := s.prepare(ctx, pod)
	if err != nil {
		return fmt.Errorf("set annotation %q: %w", key, err)
	}
	unlock, err := s.lock(ctx, base)
	if err != nil {
		return fmt.Errorf("set annotation %q of pod %s/%s: %w", key, pod.Namespace, pod.Name, err)
	}
	defer unlock()
	path := base + ".json"
	annotations := map[string]string{}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("set annotation %q: %w", key, err)
	default:
		// What cannot be read was not written by us, or the disk is damaged. The new status counts more.
		if json.Unmarshal(data, &annotations) != nil || annotations == nil {
			annotations = map[string]string{}
		}
	}
	annotations[key] = value
	if data, err = json.MarshalIndent(annotations, "", "  "); err != nil {
		return fmt.Errorf("encode annotations of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if err := fsx.WriteAtomic(path, append(data, '\n'), stateFilePerm); err != nil {
		return fmt.Errorf("set annotation %q: %w", key, err)
	}
	return nil
}

// Emit appends the event to the pod's file of events, one JSON object a line. Errors are those of SetAnnotation.
func (s *Source) Emit(ctx context.Context, pod publish.Pod, event publish.Event) error {
	base, err := s.prepare(ctx, pod)
	if err != nil {
		return fmt.Errorf("record event %s: %w", event.Reason, err)
	}
	unlock, err := s.lock(ctx, base)
	if err != nil {
		return fmt.Errorf("record event %s about pod %s/%s: %w", event.Reason, pod.Namespace, pod.Name, err)
	}
	defer unlock()
	event.Message = event.Text()
	line, err := json.Marshal(record{Time: time.Now().UTC().Format(time.RFC3339Nano), UID: pod.UID, Event: event})
	if err != nil {
		return fmt.Errorf("encode event %s: %w", event.Reason, err)
	}
	if err := appendLine(base+".events.jsonl", append(line, '\n')); err != nil {
		return fmt.Errorf("record event %s: %w", event.Reason, err)
	}
	return nil
}

// record is one line of a file of events.
type record struct {
	Time string `json:"time"`
	UID  string `json:"uid,omitempty"`
	publish.Event
}

func appendLine(path string, line []byte) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxEvents {
		err = os.Rename(path, path+".old")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, stateFilePerm)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Close())
}

// prepare checks the pod and returns the path of its state files without their extension.
func (s *Source) prepare(ctx context.Context, pod publish.Pod) (string, error) {
	// Kubernetes allows no "_" in a namespace, so that the first one in a file name is the border.
	if !plainName(pod.Namespace) || strings.Contains(pod.Namespace, "_") || !plainName(pod.Name) {
		return "", fmt.Errorf("pod %q in namespace %q: not a name that a file can have", pod.Name, pod.Namespace)
	}
	known, err := s.Pod(ctx, plan.Ref{Namespace: pod.Namespace, Name: pod.Name})
	if err == nil && pod.UID != "" && known.UID != "" && known.UID != pod.UID {
		return "", fmt.Errorf("%w: pod %s/%s has UID %q now, not %q", publish.ErrGone, pod.Namespace, pod.Name, known.UID,
			pod.UID)
	}
	// Any other outcome tells nothing against writing: the pod need not be described.
	if err := os.MkdirAll(s.options.StateDir, stateDirPerm); err != nil {
		return "", fmt.Errorf("make state directory: %w", err)
	}
	return filepath.Join(s.options.StateDir, pod.Namespace+"_"+pod.Name), nil
}

// plainName keeps path separators and relative paths out of file names.
func plainName(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '.' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

// lock keeps other goroutines and other processes (the thin plugin is one for each pod) from writing the same
// pod's state between a read and a write.
func (s *Source) lock(ctx context.Context, base string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	l, err := fsx.Acquire(ctx, filepath.Join(s.options.StateDir, lockName), filepath.Base(base))
	if err != nil {
		return nil, fmt.Errorf("%w: lock the state: %w", publish.ErrRetry, err)
	}
	return func() { _ = l.Close() }, nil // closing frees the lock, whatever it returns
}
