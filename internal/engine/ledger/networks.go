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

	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/cniconf"
	"multus/internal/engine/plan"
	"multus/internal/fsx"
	"multus/internal/rawjson"
)

// maxNote is the size of a note that is still read: a configuration, as a string.
const maxNote = 16 << 20

// Network is a network that was attached on this node at some time, also when no sandbox is left that has it: GC asks
// its plugins all the same, for what others lost. Of one name the last configuration is known.
type Network struct {
	Name   string        `json:"name"`
	BinDir string        `json:"binDir,omitempty"`
	Config *cniconf.List `json:"config"`
}

// networksDir is beside the state directory: who reads that one, today's Multus included, takes every file for a
// record.
func (s *Store) networksDir() string { return filepath.Clean(s.Dir) + "-networks" }

// networkFile is named by a hash: a network's name may be longer than a file's.
func (s *Store) networkFile(configName string) string {
	return filepath.Join(s.networksDir(), strconv.FormatUint(hash([]byte(configName)), 16)+".json")
}

func hash(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b) // never fails
	return h.Sum64()
}

// NoteNetworks remembers the networks of a plan until Forget. One that is known already costs a look at its file; one whose
// configuration is another for each pod (a device of the kubelet's, cni-args) is noted each time.
func (s *Store) NoteNetworks(p *plan.Plan) error {
	for i := range p.Attachments {
		a := &p.Attachments[i]
		w := rawjson.Begin(nil) // a Network
		w.Text("name", a.Name)
		w.TextIf("binDir", p.Dirs.Binary)
		w.Text("config", string(a.Config.Bytes())) // as a text: not a byte of it changes
		b := w.End()
		file := s.networkFile(a.Config.Name())
		if known, err := fsx.ReadRegular(s.networksDir(), filepath.Base(file), maxNote); err == nil && bytes.Equal(known, b) {
			continue
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

// Networks lists what was noted and not forgotten. A file that cannot be read is removed: the network's next ADD
// notes it again.
func (s *Store) Networks() ([]Network, error) {
	entries, err := os.ReadDir(s.networksDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	if err := fsx.Sweep(s.networksDir(), fsx.Abandoned); err != nil {
		s.Log.Warn("files of killed processes are left", "err", err)
	}
	var out []Network
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		n, err := s.note(e.Name())
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
	n := &Network{}
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

// Forget drops the note of a network of which nothing is left on the node.
func (s *Store) Forget(configName string) error {
	if err := fsx.Remove(s.networkFile(configName)); err != nil {
		return fmt.Errorf("forget network %s: %w", configName, err)
	}
	return nil
}

// ForgetAll forgets every network: Multus leaves the node, and nobody will ask their plugins any more.
func (s *Store) ForgetAll() error {
	if err := os.RemoveAll(s.networksDir()); err != nil {
		return fmt.Errorf("forget networks: %w", err)
	}
	return nil
}
