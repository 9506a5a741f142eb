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

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/fsx"
)

const (
	// settle is how long the directories must be quiet before they are read: installers write in steps.
	settle = 20 * time.Millisecond
	// latest is when they are read even if they are not quiet.
	latest = 200 * time.Millisecond
	// retry is the pause after a directory could not be watched or a file could not be written.
	retry = 10 * time.Second
)

// ErrConflict is wrapped in the error of Owned while another program keeps removing or changing the CNI configuration
// file.
var ErrConflict = errors.New("another program keeps removing or changing the CNI configuration of multus")

// Memory returns the file for Slot.Memory. It is beside the state directory and not inside, because every file inside
// is a record, and because the daemon need not have permission to write records.
func Memory(stateDir string) string { return filepath.Join(filepath.Clean(stateDir)+"-slot", FileName) }

// Slot keeps 00-multus.conf in place and up to date with the cluster network (docs/architecture.md). It never removes
// the file and never writes one that libcni rejects. If there is no valid configuration, the last valid one stays.
type Slot struct {
	conf *config.Daemon
	log  *slog.Logger
	// Lost is called once when a conflict begins. It must not block.
	Lost func(err error)
	// Memory is a file that survives a reboot, or "". If the configuration directory is in memory, the last good
	// configuration is restored from this file before the cluster network's agent writes its own (multus-cni#1387).
	Memory string
	// Node reads the Node object of this node. It is nil without a Kubernetes cluster. If the error wraps ErrNodeUnknown,
	// the configuration is generated without the facts of the node. After any other error, the last known facts are used.
	Node func(ctx context.Context) (Node, error)

	path string
	// facts are those of the Node object, nil until it was read. learned delivers them.
	facts   *Facts
	learned chan Facts
	// good is the last valid configuration, or nil.
	good     []byte
	conflict conflict
	// primary is the file of the cluster network for which good was generated. passed has the errors of the files before
	// it.
	primary string
	passed  string
	// pluginsDir is the subdirectory with further plugins of the cluster network's list. It is "" if the copy of the
	// cluster network is not used.
	pluginsDir string
	// logged is the Chain that was logged last. inList is the configuration from which our plugin in it was made.
	logged string
	inList []byte
	// again reports whether sync must be called again after a pause, without an event.
	again bool

	now   func() time.Time
	after func(time.Duration) <-chan time.Time

	// mu guards owned and current, which the probes read.
	mu sync.Mutex
	// owned is the reason why the runtime may not call Multus. current is the reason why the configuration in force may be
	// out of date. Both are nil if all is well.
	owned, current error
}

// NewSlot returns a Slot. It reads no files.
func NewSlot(conf *config.Daemon, log *slog.Logger) *Slot {
	s := &Slot{
		conf: conf, log: log, Lost: func(error) {},
		path:  filepath.Join(conf.CNIConfigDir, FileName),
		owned: errors.New("the CNI configuration is not written yet"),
		now:   time.Now, after: time.After, learned: make(chan Facts),
	}
	if conf.MultusConfigFile != config.Auto {
		s.path = filepath.Join(conf.CNIConfigDir, filepath.Base(conf.MultusConfigFile))
	}
	return s
}

// Owned returns nil while the runtime calls Multus by a configuration of this daemon. Otherwise it returns the reason
// why the runtime may not.
func (s *Slot) Owned() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owned
}

// Ready returns nil while the wanted configuration is in force. It also returns an error while the last good
// configuration is served because the wanted one cannot be used.
func (s *Slot) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.owned, s.current)
}

func (s *Slot) setOwned(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && text(s.owned) != err.Error() {
		s.log.Error("CNI configuration", "err", err)
	}
	s.owned = err
}

// setCurrent records why the wanted configuration cannot be used. err is nil if it can.
func (s *Slot) setCurrent(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("the last good CNI configuration stays in force, because the one that is wanted now cannot be "+
			"used: %w", err)
	}
	switch was := text(s.current); {
	case err != nil && was != err.Error():
		s.log.Error("CNI configuration", "err", err)
	case err == nil && was != "":
		s.log.Info("the CNI configuration that is wanted can be used again")
	}
	s.current = err
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Run watches both directories until ctx ends. It creates a directory that does not exist.
func (s *Slot) Run(ctx context.Context) error {
	w, err := newWatch()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := s.follow(w); err != nil {
		return err
	}
	s.sweep()
	s.sync()
	if s.asksNode() {
		asking, stop := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() { s.watchNode(asking) })
		defer done.Wait()
		defer stop()
	}
	for {
		if err := s.wait(ctx, w); err != nil || ctx.Err() != nil {
			return err
		}
		err := s.follow(w)
		s.sync()
		if err != nil {
			s.setOwned(err)
			s.again = true
		}
	}
}

// follow updates the watch to the directories that exist now.
func (s *Slot) follow(w *watch) error {
	source := s.conf.MultusAutoconfigDir
	if s.conf.MultusConfigFile != config.Auto {
		source = filepath.Dir(s.conf.MultusConfigFile)
	}
	for _, d := range slices.Compact([]string{source, s.conf.CNIConfigDir}) {
		if err := w.follow(d, true); err != nil {
			return err
		}
	}
	if s.pluginsDir == "" {
		return nil
	}
	// The plugins of this directory are part of the copy of the cluster network (forced.go).
	return w.follow(s.pluginsDir, false)
}

// sweep removes the temporary files of daemons that were killed.
func (s *Slot) sweep() {
	err := fsx.Sweep(filepath.Dir(s.path), fsx.Abandoned)
	if s.Memory != "" {
		err = errors.Join(err, fsx.Sweep(filepath.Dir(s.Memory), fsx.Abandoned))
	}
	if err != nil {
		s.log.Warn("files of killed daemons are left", "err", err)
	}
}

// wait returns when the directories have changed and are quiet again, when a back-off ends, when the facts of the node
// have arrived, or when it is time to retry.
func (s *Slot) wait(ctx context.Context, w *watch) error {
	var quiet, last, due <-chan time.Time
	switch {
	case s.conflict.active():
		due = s.after(s.conflict.until.Sub(s.now()))
	case s.again:
		due = s.after(retry)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-quiet:
			return nil
		case <-last:
			return nil
		case <-due:
			return nil
		case f := <-s.learned:
			s.facts = &f
			return nil
		case err := <-w.Errors:
			s.log.Warn("watch of the CNI configuration: looking again", "err", err)
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return errors.New("the watch of the CNI configuration has ended")
			}
			if e.Op == fsnotify.Chmod {
				continue
			}
			w.lost(e)
			quiet = time.After(settle)
			if last == nil {
				last = time.After(latest)
			}
		}
	}
}

// sync updates the CNI configuration file. It generates the configuration again if that is possible, and restores the
// last good one if another program has removed it.
func (s *Slot) sync() {
	s.again = false
	before := s.good
	b, err := s.generate()
	switch {
	case err == nil:
		s.good = b
	case s.good == nil:
		s.good = found(s.path)
		if s.good == nil && s.Memory != "" {
			s.good = found(s.Memory)
		}
		if list := found(s.path + "list"); s.good == nil && list != nil {
			s.good = Passed(list)
		}
	}
	if s.good == nil {
		s.setOwned(err)
		return
	}
	s.setCurrent(err)
	s.remember()
	if s.place(before) {
		s.conflict.healed()
		s.setOwned(nil)
		s.release()
	}
	if err := s.forgetForced(); err != nil {
		s.log.Warn("an old copy of the cluster network with another version is left", "err", err)
	}
}

// place puts the last good configuration in force, and reports whether it is in force. before is the configuration of
// the previous sync.
func (s *Slot) place(before []byte) bool {
	c := FindChain(s.path, s.good)
	s.tell(c)
	if c != nil && !c.Shadowed {
		return s.placeInChain(c)
	}
	there, err := fsx.ReadFile(s.path, cniconf.MaxFile)
	switch {
	case err == nil && bytes.Equal(there, s.good):
		return true
	case err == nil && before != nil && bytes.Equal(there, before): // an update of our own file
	case !s.mayAssert(before == nil):
		return false
	}
	if err := fsx.WriteAtomic(s.path, s.good, 0o600); err != nil {
		s.setOwned(fmt.Errorf("write %s: %w", s.path, err))
		s.again = true
		return false
	}
	s.log.Info("CNI configuration written", "file", s.path)
	return true
}

// placeInChain puts the last good configuration in force inside another program's list.
func (s *Slot) placeInChain(c *Chain) bool {
	again := s.inList != nil && bytes.Equal(s.inList, s.good) // it was in the list, and another program has changed it
	if !c.Current() && again && !s.mayAssert(false) {
		return false
	}
	if !c.Current() {
		if err := c.Write(); err != nil {
			s.setOwned(err)
			s.again = true
			return false
		}
		s.log.Info("CNI configuration written", "file", c.File)
	}
	s.inList = s.good
	return true
}

// tell logs when a chain is found, changes or disappears. It logs at error level, which every log level includes,
// because it affects whether the plugins of the other program are called.
func (s *Slot) tell(c *Chain) {
	now := ""
	if c != nil {
		now = fmt.Sprint(c, c.Shadowed)
	}
	if now == s.logged {
		return
	}
	was := s.logged
	s.logged = now
	switch {
	case c == nil:
		s.inList = nil
		s.log.Error("the list that another program had made of the CNI configuration is gone", "was", was)
	case c.Shadowed:
		s.log.Error("plugins of another program are not called: the CNI configuration comes before the list that has them, "+
			"and is newer; "+
			"remove it to use the list", "plugins", c.Others, "list", c.File, "remove", c.Shadow)
	default:
		s.log.Error("another program has chained plugins to the CNI configuration: its list stays in force, and multus in "+
			"it is kept up to date",
			"plugins", c.Others, "list", c.File)
	}
}

// release removes the copy that replaced the CNI configuration file until that was in place.
func (s *Slot) release() {
	path := filepath.Join(filepath.Dir(s.path), HoldName)
	if b, err := fsx.ReadFile(path, cniconf.MaxFile); err != nil || !cniconf.CallsMultus(b) {
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
		b, err := fsx.ReadFile(s.conf.MultusConfigFile, cniconf.MaxFile)
		if err == nil && !cniconf.CallsMultus(b) {
			err = fmt.Errorf("%s is no configuration of multus", s.conf.MultusConfigFile)
		}
		if err == nil {
			if err = usable(b); err != nil {
				err = fmt.Errorf("%s: %w", s.conf.MultusConfigFile, err)
			}
		}
		return b, err
	}
	p, err := Choose(s.conf.MultusAutoconfigDir, s.conf.MultusMasterCNI)
	if err != nil {
		return nil, err
	}
	s.chosen(p)
	b, err := generate(s.conf, p, s.nodeFacts())
	s.pluginsDir = ""
	if err == nil && forced(s.conf, p) {
		s.pluginsDir = filepath.Join(filepath.Dir(p.File), p.Config.Name())
		err = writeForced(s.conf, p)
	}
	return b, err
}

// nodeFacts returns the facts of the Node object. Until it was read, they are those of the configuration that an
// earlier daemon wrote.
func (s *Slot) nodeFacts() Facts {
	switch {
	case s.facts != nil:
		return *s.facts
	case !s.asksNode():
		return Facts{}
	}
	there := s.good
	if there == nil {
		there = found(s.path)
	}
	if there == nil && s.Memory != "" {
		there = found(s.Memory)
	}
	return Before(there)
}

// chosen logs the files that should be the cluster network but cannot be used, and a chosen file that is gone. The
// choice itself succeeds, so that no other message reports them.
func (s *Slot) chosen(p *Primary) {
	if passed := text(errors.Join(p.Passed...)); passed != s.passed {
		s.passed = passed
		if passed != "" {
			s.log.Error("CNI configurations that come first cannot be used", "chosen", p.File, "err", passed)
		}
	}
	if s.primary != "" && s.primary != p.File {
		if _, err := os.Stat(s.primary); err != nil {
			s.log.Error("the configuration of the cluster network is gone: another one is used", "gone", s.primary, "chosen",
				p.File, "err", err)
		}
	}
	s.primary = p.File
}

// remember saves the last good configuration across reboots. A failure is only logged.
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

// found returns the content of a configuration file that calls Multus. It returns nil if the file does not exist, is
// not valid JSON, or does not call Multus.
func found(path string) []byte {
	b, err := fsx.ReadFile(path, cniconf.MaxFile)
	if err != nil || !cniconf.CallsMultus(b) {
		return nil
	}
	return b
}

// mayAssert reports whether the file may be put back. The first write, and a write after a failed one, does not count
// as a re-assertion.
func (s *Slot) mayAssert(first bool) bool {
	if !s.conflict.active() && (first || s.Owned() != nil) {
		return true
	}
	ok, began := s.conflict.allow(s.now())
	if began {
		err := fmt.Errorf("%w (%s, more than %d times a minute); if it is Cilium, set cni.exclusive=false; nothing is "+
			"written for %s",
			ErrConflict, s.path, conflictLimit, backOff)
		s.setOwned(err)
		s.Lost(err)
	}
	if ok {
		s.log.Warn("the CNI configuration was removed or changed by another program: putting it back", "file", s.path)
	}
	return ok
}
