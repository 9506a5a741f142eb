package cniconfig

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
	"k8s.io/utils/clock"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/fsx"
)

const (
	// settle is how long the directories must be quiet before they are read: installers write in steps.
	settle = 20 * time.Millisecond
	// latest is when they are read even if they are not quiet.
	latest = 200 * time.Millisecond
	// retryPause is the pause after a directory could not be watched or a file could not be written.
	retryPause = 10 * time.Second
)

// ErrConflict is wrapped in the error of InForce while another program keeps removing or changing the CNI configuration
// file.
var ErrConflict = errors.New("another program keeps removing or changing the CNI configuration of multus")

// SavePath returns the path for Controller.SaveFile. It is beside the state directory and not inside, because every
// file inside is a record, and because the daemon need not have permission to write records.
func SavePath(stateDir string) string {
	return filepath.Join(filepath.Clean(stateDir)+"-slot", FileName)
}

// Controller keeps 00-multus.conf in place and up to date with the cluster network (docs/architecture.md). It never
// removes the file and never writes one that libcni rejects. If there is no valid configuration, the last valid one
// stays.
type Controller struct {
	conf *config.Daemon
	log  *slog.Logger
	// OnConflict is called once when a conflict begins. It must not block.
	OnConflict func(err error)
	// SaveFile is a file that survives a reboot, or "". If the configuration directory is in memory, the last good
	// configuration is restored from this file before the cluster network's agent writes its own (multus-cni#1387).
	SaveFile string
	// Node reads the Node object of this node. It is nil without a Kubernetes cluster. If the error wraps ErrNodeUnknown,
	// the configuration is generated without the facts of the node. After any other error, the last known facts are used.
	Node func(ctx context.Context) (Node, error)

	path string
	// facts are those of the Node object, nil until it was read. newFacts delivers them.
	facts    *Facts
	newFacts chan Facts
	// good is the last valid configuration, or nil.
	good     []byte
	conflict conflict
	// primary is the file of the cluster network for which good was generated. skipped has the errors of the files before
	// it.
	primary string
	skipped string
	// pluginsDir is the subdirectory with further plugins of the cluster network's list. It is "" if the copy of the
	// cluster network is not used.
	pluginsDir string
	// logged is the Chain that was logged last. inList is the configuration from which our plugin in it was made.
	logged string
	inList []byte
	// retry reports whether sync must be called again after a pause, without an event.
	retry bool

	// clock is the real clock, except in tests.
	clock clock.Clock

	// mu guards notInForce and notCurrent, which the probes read.
	mu sync.Mutex
	// notInForce is the reason why the runtime may not call Multus. notCurrent is the reason why the configuration in
	// force may be out of date. Both are nil if all is well.
	notInForce, notCurrent error
}

// NewController returns a Controller. It reads no files.
func NewController(conf *config.Daemon, log *slog.Logger) *Controller {
	c := &Controller{
		conf: conf, log: log, OnConflict: func(error) {},
		path:       filepath.Join(conf.CNIConfigDir, FileName),
		notInForce: errors.New("the CNI configuration is not written yet"),
		clock:      clock.RealClock{}, newFacts: make(chan Facts),
	}
	if conf.MultusConfigFile != config.Auto {
		c.path = filepath.Join(conf.CNIConfigDir, filepath.Base(conf.MultusConfigFile))
	}
	return c
}

// InForce returns nil while the runtime calls Multus by a configuration of this daemon. Otherwise it returns the reason
// why the runtime may not.
func (c *Controller) InForce() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notInForce
}

// Ready returns nil while the wanted configuration is in force. It also returns an error while the last good
// configuration is served because the wanted one cannot be used.
func (c *Controller) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.notInForce, c.notCurrent)
}

func (c *Controller) setInForce(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && text(c.notInForce) != err.Error() {
		c.log.Error("CNI configuration", "err", err)
	}
	c.notInForce = err
}

// setCurrent records why the wanted configuration cannot be used. err is nil if it can.
func (c *Controller) setCurrent(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("the last valid CNI configuration stays in place: the new one cannot be used: %w", err)
	}
	switch was := text(c.notCurrent); {
	case err != nil && was != err.Error():
		c.log.Error("CNI configuration", "err", err)
	case err == nil && was != "":
		c.log.Info("the CNI configuration is up to date again")
	}
	c.notCurrent = err
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Run watches both directories until ctx ends. It creates a directory that does not exist.
func (c *Controller) Run(ctx context.Context) error {
	w, err := newWatch()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := c.follow(w); err != nil {
		return err
	}
	c.sweep()
	c.sync()
	if c.needsNode() {
		asking, stop := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() { c.watchNode(asking) })
		defer done.Wait()
		defer stop()
	}
	for {
		if err := c.wait(ctx, w); err != nil || ctx.Err() != nil {
			return err
		}
		err := c.follow(w)
		c.sync()
		if err != nil {
			c.setInForce(err)
			c.retry = true
		}
	}
}

// follow updates the watch to the directories that exist now.
func (c *Controller) follow(w *watch) error {
	source := c.conf.MultusAutoconfigDir
	if c.conf.MultusConfigFile != config.Auto {
		source = filepath.Dir(c.conf.MultusConfigFile)
	}
	for _, d := range slices.Compact([]string{source, c.conf.CNIConfigDir}) {
		if err := w.follow(d, true); err != nil {
			return err
		}
	}
	if c.pluginsDir == "" {
		return nil
	}
	// The plugins of this directory are part of the copy of the cluster network (forced.go).
	return w.follow(c.pluginsDir, false)
}

// sweep removes the temporary files of daemons that were killed.
func (c *Controller) sweep() {
	err := fsx.Sweep(filepath.Dir(c.path), fsx.TempMaxAge)
	if c.SaveFile != "" {
		err = errors.Join(err, fsx.Sweep(filepath.Dir(c.SaveFile), fsx.TempMaxAge))
	}
	if err != nil {
		c.log.Warn("cannot remove temporary files of killed daemons", "err", err)
	}
}

// wait returns when the directories have changed and are quiet again, when a back-off ends, when the facts of the node
// have arrived, or when it is time to retry.
func (c *Controller) wait(ctx context.Context, w *watch) error {
	var quiet, last, due <-chan time.Time
	switch {
	case c.conflict.active():
		due = c.clock.After(c.conflict.until.Sub(c.clock.Now()))
	case c.retry:
		due = c.clock.After(retryPause)
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
		case f := <-c.newFacts:
			c.facts = &f
			return nil
		case err := <-w.Errors:
			c.log.Warn("watch of the CNI configuration failed: reading it again", "err", err)
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return errors.New("the watch of the CNI configuration has ended")
			}
			if e.Op == fsnotify.Chmod {
				continue
			}
			w.lost(e)
			quiet = c.clock.After(settle)
			if last == nil {
				last = c.clock.After(latest)
			}
		}
	}
}

// sync updates the CNI configuration file. It generates the configuration again if that is possible, and restores the
// last good one if another program has removed it.
func (c *Controller) sync() {
	c.retry = false
	before := c.good
	b, err := c.generate()
	switch {
	case err == nil:
		c.good = b
	case c.good == nil:
		c.good = found(c.path)
		if c.good == nil && c.SaveFile != "" {
			c.good = found(c.SaveFile)
		}
		if list := found(c.path + "list"); c.good == nil && list != nil {
			c.good = cniconf.PluginConfig(list)
		}
	}
	if c.good == nil {
		c.setInForce(err)
		return
	}
	c.setCurrent(err)
	c.save()
	if c.place(before) {
		c.conflict.healed()
		c.setInForce(nil)
		c.removeHold()
	}
	if err := c.removeUnusedForced(); err != nil {
		c.log.Warn("cannot remove an old copy of the cluster network's configuration", "err", err)
	}
}

// place puts the last good configuration in force, and reports whether it is in force. before is the configuration of
// the previous sync.
func (c *Controller) place(before []byte) bool {
	chain := FindChain(c.path, c.good)
	c.logChain(chain)
	if chain != nil && !chain.Shadowed {
		return c.placeInChain(chain)
	}
	there, err := fsx.ReadFile(c.path, cniconf.MaxFile)
	switch {
	case err == nil && bytes.Equal(there, c.good):
		return true
	case err == nil && before != nil && bytes.Equal(there, before): // an update of our own file
	case !c.mayWrite(before == nil):
		return false
	}
	if err := fsx.WriteAtomic(c.path, c.good, 0o600); err != nil {
		c.setInForce(fmt.Errorf("write %s: %w", c.path, err))
		c.retry = true
		return false
	}
	c.log.Info("CNI configuration written", "file", c.path)
	return true
}

// placeInChain puts the last good configuration in force inside another program's list.
func (c *Controller) placeInChain(chain *Chain) bool {
	again := c.inList != nil && bytes.Equal(c.inList, c.good) // it was in the list, and another program has changed it
	if !chain.Current() && again && !c.mayWrite(false) {
		return false
	}
	if !chain.Current() {
		if err := chain.Write(); err != nil {
			c.setInForce(err)
			c.retry = true
			return false
		}
		c.log.Info("CNI configuration written", "file", chain.File)
	}
	c.inList = c.good
	return true
}

// logChain logs when a chain is found, changes or disappears. It logs at error level, which every log level includes,
// because it affects whether the plugins of the other program are called.
func (c *Controller) logChain(chain *Chain) {
	now := ""
	if chain != nil {
		now = fmt.Sprint(chain, chain.Shadowed)
	}
	if now == c.logged {
		return
	}
	was := c.logged
	c.logged = now
	switch {
	case chain == nil:
		c.inList = nil
		c.log.Error("the list that another program generated from the CNI configuration was removed", "was", was)
	case chain.Shadowed:
		c.log.Error("plugins of another program are not called: the CNI configuration comes before the list that has them, "+
			"and is newer; "+
			"remove it to use the list", "plugins", chain.Others, "list", chain.File, "remove", chain.Shadow)
	default:
		c.log.Error("another program has chained plugins to the CNI configuration: its list stays in place, and the "+
			"daemon updates multus in it",
			"plugins", chain.Others, "list", chain.File)
	}
}

// removeHold removes the copy that replaced the CNI configuration file until that was in place.
func (c *Controller) removeHold() {
	path := filepath.Join(filepath.Dir(c.path), HoldName)
	if b, err := fsx.ReadFile(path, cniconf.MaxFile); err != nil || !cniconf.CallsMultus(b) {
		return
	}
	if err := fsx.Remove(path); err != nil {
		c.log.Warn("cannot remove the temporary copy of the CNI configuration; it has no effect", "err", err)
		return
	}
	c.log.Info("removed the temporary copy of the CNI configuration", "file", path)
}

func (c *Controller) generate() ([]byte, error) {
	if c.conf.MultusConfigFile != config.Auto {
		b, err := fsx.ReadFile(c.conf.MultusConfigFile, cniconf.MaxFile)
		if err == nil && !cniconf.CallsMultus(b) {
			err = fmt.Errorf("%s is not a configuration of multus", c.conf.MultusConfigFile)
		}
		if err == nil {
			if err = usable(b); err != nil {
				err = fmt.Errorf("%s: %w", c.conf.MultusConfigFile, err)
			}
		}
		return b, err
	}
	p, err := Choose(c.conf.MultusAutoconfigDir, c.conf.MultusMasterCNI)
	if err != nil {
		return nil, err
	}
	c.recordChoice(p)
	b, err := generate(c.conf, p, c.nodeFacts())
	c.pluginsDir = ""
	if err == nil && forced(c.conf, p) {
		c.pluginsDir = filepath.Join(filepath.Dir(p.File), p.Config.Name())
		err = writeForced(c.conf, p)
	}
	return b, err
}

// nodeFacts returns the facts of the Node object. Until it was read, they are those of the configuration that an
// earlier daemon wrote.
func (c *Controller) nodeFacts() Facts {
	switch {
	case c.facts != nil:
		return *c.facts
	case !c.needsNode():
		return Facts{}
	}
	there := c.good
	if there == nil {
		there = found(c.path)
	}
	if there == nil && c.SaveFile != "" {
		there = found(c.SaveFile)
	}
	return FactsOf(there)
}

// recordChoice logs the files that should be the cluster network but cannot be used, and a chosen file that is
// gone. The choice itself succeeds, so that no other message reports them.
func (c *Controller) recordChoice(p *Primary) {
	if passed := text(errors.Join(p.Skipped...)); passed != c.skipped {
		c.skipped = passed
		if passed != "" {
			c.log.Error("skipped CNI configurations that sort before the chosen one", "chosen", p.File, "err", passed)
		}
	}
	if c.primary != "" && c.primary != p.File {
		if _, err := os.Stat(c.primary); err != nil {
			c.log.Error("the configuration of the cluster network does not exist any more: using another one", "gone",
				c.primary, "chosen",
				p.File, "err", err)
		}
	}
	c.primary = p.File
}

// save saves the last good configuration across reboots. A failure is only logged.
func (c *Controller) save() {
	if c.SaveFile == "" || bytes.Equal(found(c.SaveFile), c.good) {
		return
	}
	err := os.MkdirAll(filepath.Dir(c.SaveFile), 0o700)
	if err == nil {
		err = fsx.WriteAtomic(c.SaveFile, c.good, 0o600)
	}
	if err != nil {
		c.log.Warn("cannot save the CNI configuration for the next boot", "err", err)
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

// mayWrite reports whether the file may be put back. The first write, and a write after a failed one, does not count
// as a re-assertion.
func (c *Controller) mayWrite(first bool) bool {
	if !c.conflict.active() && (first || c.InForce() != nil) {
		return true
	}
	ok, began := c.conflict.allow(c.clock.Now())
	if began {
		err := fmt.Errorf("%w (%s, more than %d times a minute); if it is Cilium, set cni.exclusive=false; nothing is "+
			"written for %s",
			ErrConflict, c.path, conflictLimit, backOff)
		c.setInForce(err)
		c.OnConflict(err)
	}
	if ok {
		c.log.Warn("the CNI configuration was removed or changed by another program: putting it back", "file", c.path)
	}
	return ok
}
