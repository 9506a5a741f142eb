package autoconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"multus/internal/config"
	"multus/internal/fsx"
)

const (
	// settle is how long the directory has to be quiet before it is looked at: installers write in steps.
	settle = 20 * time.Millisecond
	// latest is when it is looked at all the same.
	latest = 200 * time.Millisecond
	// fightWindow and fightLimit tell a fight from an accident: more re-assertions than that in the window.
	fightWindow = time.Minute
	fightLimit  = 3
	// truce is how long nothing is re-asserted after a fight.
	truce = 5 * time.Minute
)

// ErrFight is in Owned's answer while somebody else keeps removing our configuration.
var ErrFight = errors.New("somebody else keeps removing or changing the CNI configuration of multus")

// Memory is the file for Slot.Memory beside a state directory: inside of it every file is a record, and the daemon need
// not be able to write records.
func Memory(stateDir string) string { return filepath.Join(filepath.Clean(stateDir)+"-slot", FileName) }

// Slot keeps 00-multus.conf in step with the cluster network and in place (architecture.md, decision 5). It
// never removes the file and never writes one that libcni refuses; the last good one stays.
type Slot struct {
	conf *config.Daemon
	log  *slog.Logger
	// Lost is called once when a fight begins. It must not wait.
	Lost func(err error)
	// Memory is a file that outlives a boot, "" for none: where the directory of configurations is in memory, the last
	// good one is put back from there before the cluster network's agent has written its own (P02).
	Memory string

	path string
	// good is what was last generated, nil before.
	good []byte
	// asserted are the times of the last re-assertions.
	asserted []time.Time

	// mu guards state, which is read by probes.
	mu    sync.Mutex
	state error
}

// NewSlot makes a slot; nothing is read yet.
func NewSlot(conf *config.Daemon, log *slog.Logger) *Slot {
	return &Slot{
		conf: conf, log: log, Lost: func(error) {},
		path:  filepath.Join(conf.CNIConfigDir, FileName),
		state: errors.New("the CNI configuration is not written yet"),
	}
}

// Owned says why the runtime may not be calling Multus: nil when the slot is ours.
func (s *Slot) Owned() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *Slot) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && (s.state == nil || s.state.Error() != err.Error()) {
		s.log.Error("CNI configuration", "err", err)
	}
	s.state = err
}

// Run watches both directories until ctx ends. A directory that does not exist yet is made.
func (s *Slot) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch CNI configuration: %w", err)
	}
	defer w.Close()
	dirs := []string{s.conf.MultusAutoconfigDir, s.conf.CNIConfigDir}
	if s.conf.MultusConfigFile != config.Auto {
		dirs[0] = filepath.Dir(s.conf.MultusConfigFile)
		s.path = filepath.Join(s.conf.CNIConfigDir, filepath.Base(s.conf.MultusConfigFile))
	}
	for _, d := range slices.Compact(dirs) {
		if err := errors.Join(os.MkdirAll(d, 0o755), w.Add(d)); err != nil {
			return fmt.Errorf("watch %s: %w", d, err)
		}
	}
	s.sweep()
	s.sync()
	for {
		if err := s.wait(ctx, w); err != nil || ctx.Err() != nil {
			return err
		}
		s.sync()
	}
}

// sweep removes what daemons left half-written that were killed.
func (s *Slot) sweep() {
	err := fsx.Sweep(filepath.Dir(s.path), fsx.Abandoned)
	if s.Memory != "" {
		err = errors.Join(err, fsx.Sweep(filepath.Dir(s.Memory), fsx.Abandoned))
	}
	if err != nil {
		s.log.Warn("files of killed daemons are left", "err", err)
	}
}

// wait returns when something has happened in the directories and they have come to rest, or when a truce
// ends.
func (s *Slot) wait(ctx context.Context, w *fsnotify.Watcher) error {
	var quiet, last <-chan time.Time
	var peace <-chan time.Time
	if errors.Is(s.Owned(), ErrFight) {
		peace = time.After(truce)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-quiet:
			return nil
		case <-last:
			return nil
		case <-peace:
			s.asserted = nil
			return nil
		case err := <-w.Errors:
			s.log.Warn("watch of the CNI configuration: looking again", "err", err)
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return errors.New("the watch of the CNI configuration has ended")
			}
			if e.Has(fsnotify.Chmod) && e.Op == fsnotify.Chmod {
				continue
			}
			quiet = time.After(settle)
			if last == nil {
				last = time.After(latest)
			}
		}
	}
}

// sync brings the file in step: generates it anew if it can, and puts the last good one back if somebody has
// taken it away.
func (s *Slot) sync() {
	b, err := s.generate()
	if err != nil && s.good == nil {
		s.good = found(s.path)
	}
	if err != nil && s.good == nil && s.Memory != "" {
		s.good = found(s.Memory)
	}
	changed := err == nil && !bytes.Equal(b, s.good)
	if err == nil {
		s.good = b
	}
	if s.good == nil {
		s.set(err)
		return
	}
	s.remember()
	there, rerr := os.ReadFile(s.path)
	switch {
	case rerr == nil && bytes.Equal(there, s.good):
		s.owned(err)
		return
	case !changed && !s.mayAssert():
		return
	}
	if werr := fsx.WriteAtomic(s.path, s.good, 0o600); werr != nil {
		s.set(fmt.Errorf("write %s: %w", s.path, werr))
		return
	}
	s.log.Info("CNI configuration written", "file", s.path)
	s.owned(err)
}

// owned notes that our file is in place. A cluster network that cannot be used now is told, and is no
// reason to give the slot up.
func (s *Slot) owned(err error) {
	defer s.release()
	if err != nil {
		s.log.Warn("the cluster network cannot be read: keeping the last good CNI configuration", "err", err)
	}
	if !errors.Is(s.Owned(), ErrFight) {
		s.set(nil)
	}
}

// release removes the copy that held the slot until our file was in place.
func (s *Slot) release() {
	path := filepath.Join(filepath.Dir(s.path), HoldName)
	if b, err := os.ReadFile(path); err != nil || !Ours(b) {
		return
	}
	if err := fsx.Remove(path); err != nil {
		s.log.Warn("the copy of the CNI configuration is left: it does no harm", "err", err)
		return
	}
	s.log.Info("removed the copy that held the place of the CNI configuration", "file", path)
}

func (s *Slot) generate() ([]byte, error) {
	if s.conf.MultusConfigFile != config.Auto {
		b, err := os.ReadFile(s.conf.MultusConfigFile)
		if err == nil && !Ours(b) {
			err = fmt.Errorf("%s is no configuration of multus", s.conf.MultusConfigFile)
		}
		return b, err
	}
	p, err := Choose(s.conf.MultusAutoconfigDir, s.conf.MultusMasterCNI)
	if err != nil {
		return nil, err
	}
	return Generate(s.conf, p)
}

// remember keeps the last good configuration over a boot. Failure costs no more than that.
func (s *Slot) remember() {
	if s.Memory == "" || bytes.Equal(found(s.Memory), s.good) {
		return
	}
	err := os.MkdirAll(filepath.Dir(s.Memory), 0o700)
	if err == nil {
		err = fsx.WriteAtomic(s.Memory, s.good, 0o600)
	}
	if err != nil {
		s.log.Warn("the CNI configuration will not be known after a boot", "err", err)
	}
}

// found is the file that an earlier daemon wrote, nil if there is none that is ours and whole.
func found(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil || !Ours(b) {
		return nil
	}
	return b
}

// mayAssert tells whether the file may be put back once more. The first write is no re-assertion.
func (s *Slot) mayAssert() bool {
	if s.Owned() != nil && !errors.Is(s.Owned(), ErrFight) {
		return true
	}
	now := time.Now()
	s.asserted = slices.DeleteFunc(s.asserted, func(t time.Time) bool { return now.Sub(t) > fightWindow })
	if len(s.asserted) >= fightLimit {
		if !errors.Is(s.Owned(), ErrFight) {
			err := fmt.Errorf("%w (%s, more than %d times a minute); if it is Cilium, set cni.exclusive=false; giving up for %s", ErrFight, s.path, fightLimit, truce)
			s.set(err)
			s.Lost(err)
		}
		return false
	}
	if errors.Is(s.Owned(), ErrFight) {
		s.set(errors.New("the truce is over: asserting the CNI configuration again"))
	}
	s.asserted = append(s.asserted, now)
	s.log.Warn("the CNI configuration was removed or changed by somebody else: putting it back", "file", s.path)
	return true
}
