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
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

const (
	stateDirPerm  = 0o755
	stateFilePerm = 0o644
	// maxEvents is the size at which a pod's file of events is rotated. One old file is kept.
	maxEvents = 1 << 20
	// lockTimeout limits the wait for another process that writes the state of the same pod.
	lockTimeout = 2 * time.Second
	// lockName is the file with the locks of all pods.
	lockName = ".lock"
)

// SetStatus adds the annotation to the pod's state file, which has no conditions. The error wraps publish.ErrGone if
// the directory of definitions has a pod of that name with another UID, and publish.ErrRetry if another process holds
// the lock. The annotation is also written for a pod that no file describes, because pods need not be described.
func (s *Source) SetStatus(ctx context.Context, pod request.Pod, key, value string, _ *publish.Unready) error {
	if value == "" {
		return nil
	}
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
		// The content was written by another program or is damaged. The new status is more important.
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

// Emit appends the event to the pod's file of events, which has one JSON object per line. Its errors are those of
// SetStatus.
func (s *Source) Emit(ctx context.Context, pod request.Pod, event publish.Event) error {
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

// prepare checks the pod and returns the path of its state files, without an extension.
func (s *Source) prepare(ctx context.Context, pod request.Pod) (string, error) {
	// Kubernetes permits no "_" in a namespace, so that the first one in a file name separates namespace and name.
	if !validFileName(pod.Namespace) || strings.Contains(pod.Namespace, "_") || !validFileName(pod.Name) {
		return "", fmt.Errorf("pod %q in namespace %q: not usable as a file name", pod.Name, pod.Namespace)
	}
	known, err := s.Pod(ctx, plan.Ref{Namespace: pod.Namespace, Name: pod.Name})
	if err == nil && pod.UID != "" && known.UID != "" && known.UID != pod.UID {
		return "", fmt.Errorf("%w: pod %s/%s has UID %q now, not %q", publish.ErrGone, pod.Namespace, pod.Name, known.UID,
			pod.UID)
	}
	// Any other outcome does not prevent the write, because the pod need not be described.
	if err := os.MkdirAll(s.options.StateDir, stateDirPerm); err != nil {
		return "", fmt.Errorf("make state directory: %w", err)
	}
	return filepath.Join(s.options.StateDir, pod.Namespace+"_"+pod.Name), nil
}

// validFileName reports whether s can be a file name: it has no path separators and is no relative path.
func validFileName(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '.' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

// lock prevents other goroutines and processes from changing the pod's state between a read and a write. The thin
// plugin is one process for each pod.
func (s *Source) lock(ctx context.Context, base string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	l, err := fsx.Acquire(ctx, filepath.Join(s.options.StateDir, lockName), filepath.Base(base))
	if err != nil {
		return nil, fmt.Errorf("%w: lock the state: %w", publish.ErrRetry, err)
	}
	return func() { _ = l.Close() }, nil // closing releases the lock even if it returns an error
}
