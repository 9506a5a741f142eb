package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/cniconf"
	"multus/internal/fsx"
	"multus/internal/rawjson"
)

// maxNote is the maximum size of a note that is read. A note contains a configuration as a string.
const maxNote = 16 << 20

// Network is a network that was attached on this node at some time, even if no sandbox has it any more: GC still calls
// its plugins, which may hold leftover state of other processes. For each name the last configuration is kept.
type Network struct {
	Name   string        `json:"name"`
	BinDir string        `json:"binDir,omitempty"`
	Config *cniconf.List `json:"config"`
	// Time is when the network was last attached.
	Time time.Time `json:"-"`
}

// networksDir returns a directory beside the state directory: every reader of the state directory, today's Multus
// included, treats each file in it as a record.
func (s *Store) networksDir() string { return filepath.Clean(s.Dir) + "-networks" }

// networkFile returns a file name that is made of a hash, because the name of a network may be longer than a file name.
func (s *Store) networkFile(configName string) string {
	return filepath.Join(s.networksDir(), strconv.FormatUint(hash([]byte(configName)), 16)+".json")
}

func hash(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b) // never fails
	return h.Sum64()
}

// NoteNetworks writes a note of each network of a plan, which is kept until RemoveNetwork. It omits what the pod
// requested in the configuration (its device, cni-args), so that all pods of a network have the same note. If the note
// exists, only its time is updated.
func (s *Store) NoteNetworks(r *Record) error {
	now := time.Now()
	for i := range r.Attachments {
		a := &r.Attachments[i]
		shared, err := a.Config.WithoutPod()
		if err != nil {
			return fmt.Errorf("note network %s: %w", a.Name, err)
		}
		w := rawjson.Begin(nil) // a Network
		w.String("name", a.Name)
		w.StringIf("binDir", r.BinDir)
		w.String("config", string(shared.Bytes())) // a string, so that every byte of it is kept
		b := w.End()
		file := s.networkFile(a.Config.Name())
		if known, err := fsx.ReadRegular(s.networksDir(), filepath.Base(file), maxNote); err == nil && bytes.Equal(known, b) {
			if os.Chtimes(file, now, now) == nil {
				continue
			}
		}
		if err := os.MkdirAll(s.networksDir(), 0o700); err != nil {
			return fmt.Errorf("note network %s: %w", a.Name, err)
		}
		if err := fsx.WriteAtomic(file, b, 0o600); err != nil {
			return fmt.Errorf("note network %s: %w", a.Name, err)
		}
	}
	return nil
}

// Networks lists the networks that were recorded and not removed since. It removes a file that cannot be read: the
// network's next ADD writes it again.
func (s *Store) Networks() ([]Network, error) {
	if err := s.dropLinks(); err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	entries, err := os.ReadDir(s.networksDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	if err := fsx.Sweep(s.networksDir(), fsx.TempMaxAge); err != nil {
		s.Log.Warn("cannot remove temporary files of killed processes", "err", err)
	}
	var out []Network
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		n, err := s.note(e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // removed in the meantime
		}
		if errors.Is(err, errDamagedNote) {
			err = errors.Join(err, fsx.Remove(filepath.Join(s.networksDir(), e.Name())))
			s.Log.Error("note of a network removed", "err", err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list networks: %w", err)
		}
		out = append(out, *n)
	}
	return out, nil
}

// errDamagedNote is returned for a note that NoteNetworks cannot have written.
var errDamagedNote = errors.New("note of a network is damaged")

func (s *Store) note(name string) (*Network, error) {
	b, err := fsx.ReadRegular(s.networksDir(), name, maxNote)
	if errors.Is(err, fsx.ErrNotRegular) || errors.Is(err, fsx.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", errDamagedNote, err)
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(filepath.Join(s.networksDir(), name))
	if err != nil {
		return nil, err
	}
	n := &Network{Time: info.ModTime()}
	if err := json.Unmarshal(b, n); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errDamagedNote, name, err)
	}
	if n.Config == nil {
		return nil, fmt.Errorf("%w: %s: no configuration", errDamagedNote, name)
	}
	if err := utils.ValidateNetworkName(n.Config.Name()); err != nil {
		return nil, fmt.Errorf("%w: %s: network name %.253q", errDamagedNote, name, n.Config.Name())
	}
	return n, nil
}

// RemoveNetwork removes the note of a network that has no attachments on the node. It keeps the note if the network was
// attached again after seen, the Time of the note. If the network was never noted, seen is zero and there is nothing to
// remove.
func (s *Store) RemoveNetwork(configName string, seen time.Time) error {
	file := s.networkFile(configName)
	info, err := os.Lstat(file)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.ModTime().After(seen) {
		return nil
	}
	if err == nil {
		err = fsx.Remove(file)
	}
	if err != nil {
		return fmt.Errorf("remove the note of network %s: %w", configName, err)
	}
	return nil
}

// RemoveNotes removes the notes of networks and of abandoned attachments. It is for the removal of Multus from the
// node.
func (s *Store) RemoveNotes() error {
	if err := errors.Join(os.RemoveAll(s.networksDir()), os.RemoveAll(s.abandonedDir())); err != nil {
		return fmt.Errorf("remove the notes of networks: %w", err)
	}
	return nil
}
