package ledger

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/fsx"
)

const (
	// maxAbandoned is the maximum number of notes of abandoned attachments. The oldest notes are removed first.
	maxAbandoned = 1000
	// maxAbandonedNote is the maximum size of a note that is read.
	maxAbandonedNote = 64 << 10
)

// Abandoned is an attachment that DEL has given up because its plugins permanently refuse to delete it. What they hold,
// such as an address of the IPAM plugin, may be left.
type Abandoned struct {
	ContainerID string `json:"containerID"`
	// Pod is the pod as namespace/name. It is "" if the runtime named none.
	Pod     string `json:"pod,omitempty"`
	Network string `json:"network"`
	IfName  string `json:"ifName"`
	// Plugins and IPAM are the types of the network's plugins.
	Plugins []string `json:"plugins"`
	IPAM    []string `json:"ipam,omitempty"`
	// Reason is the last error of the plugins.
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
	// File is the path of the note. An administrator removes the file after cleaning up what was left.
	File string `json:"-"`
}

// abandonedDir returns a directory beside the state directory, as networksDir does.
func (s *Store) abandonedDir() string { return filepath.Clean(s.Dir) + "-abandoned" }

// Abandon writes a note that an attachment is given up.
func (s *Store) Abandon(r *Record, a *Attachment, reason error) error {
	n := Abandoned{
		ContainerID: r.ContainerID, Network: a.Name, IfName: a.IfName, Plugins: a.Config.Types(),
		IPAM:   slices.DeleteFunc(a.Config.IPAMTypes(), func(t string) bool { return t == "" }),
		Reason: fault.Clip(reason.Error(), fault.MaxMessage), Time: time.Now().UTC(),
	}
	if name := a.Args.Get(request.PodName); name != "" {
		n.Pod = a.Args.Get(request.PodNamespace) + "/" + name
	}
	b, err := json.MarshalIndent(&n, "", "  ")
	if err == nil {
		err = os.MkdirAll(s.abandonedDir(), 0o700)
	}
	name := r.ContainerID + "-" + a.IfName + ".json"
	if err == nil {
		err = fsx.PlainName(name)
	}
	if err == nil {
		err = fsx.WriteAtomic(filepath.Join(s.abandonedDir(), name), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note that network %s is given up: %w", a.Name, err)
	}
	return s.trimAbandoned()
}

func (s *Store) trimAbandoned() error {
	all, err := s.Abandoned()
	if err != nil || len(all) <= maxAbandoned {
		return err
	}
	var errs []error
	for _, n := range all[maxAbandoned:] {
		errs = append(errs, fsx.Remove(n.File))
	}
	return errors.Join(errs...)
}

// Abandoned lists the attachments that DEL has given up on this node, the latest first. It omits notes that cannot be
// read.
func (s *Store) Abandoned() ([]*Abandoned, error) {
	entries, err := os.ReadDir(s.abandonedDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list abandoned attachments: %w", err)
	}
	var out []*Abandoned
	for _, e := range entries {
		b, err := fsx.ReadRegular(s.abandonedDir(), e.Name(), maxAbandonedNote)
		n := &Abandoned{File: filepath.Join(s.abandonedDir(), e.Name())}
		if err == nil && json.Unmarshal(b, n) == nil {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *Abandoned) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.ContainerID, b.ContainerID))
	})
	return out, nil
}
