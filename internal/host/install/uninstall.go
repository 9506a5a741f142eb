package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/agent/cniconfig"
	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

var (
	// ErrRunning is returned when a daemon serves on this node, because it would write its configuration again.
	ErrRunning = errors.New("multus-daemon still runs on this node: delete its DaemonSet first")
	// ErrNoPrimary is returned when the node would have no CNI configuration without that of Multus.
	ErrNoPrimary = errors.New("no other CNI configuration: without that of Multus no pod could start on this node")
	// ErrInstalledAgain is returned when Multus was installed again while Uninstall waited for pods. The rest stays for
	// the new installation.
	ErrInstalledAgain = errors.New("multus was installed again meanwhile: nothing more is removed")
	// ErrAttached is returned when pods still have attachments that only Multus can free.
	ErrAttached = errors.New("pods are still attached through Multus")
)

// dialLimit limits the attempt to connect to a daemon.
const dialLimit = time.Second

// Removal has the options of Uninstall.
type Removal struct {
	ConfDir  string // the runtime's CNI configurations
	BinDir   string
	StateDir string // the ledger
	Socket   string // of the daemon
	LockFile string // of all sandboxes
	Boot     string // the identity of this boot of the node
	// Wait is how long Uninstall waits for attached pods before it returns ErrAttached.
	Wait time.Duration
	// Force continues in spite of ErrRunning, ErrNoPrimary, ErrAttached or ErrInstalledAgain.
	Force bool
	// Log receives what was done.
	Log *slog.Logger
}

// Uninstall removes Multus from a node. Its order keeps the node working after every step (multus-cni#461). It first
// removes the CNI configuration file, once another configuration can replace it. When no attachment needs the plugins
// any more, it removes these and the rest. It can be repeated, and continues where it stopped or was killed.
//
// Pods that are attached at that time keep running. The runtime deletes them by the cluster network's configuration
// alone (containerd), or by the configuration in its cache, which calls the plugin (CRI-O). Uninstall frees what the
// runtime leaves. If Multus is installed again meanwhile, Uninstall ends with ErrInstalledAgain.
//
// Reference plugins stay, because other configurations may use them by now.
func Uninstall(ctx context.Context, r Removal) error {
	if err := r.running(ctx); err != nil && !r.Force {
		return err
	}
	if err := r.stopIntercepting(); err != nil {
		return err
	}
	detached := r.detach(ctx)
	if detached != nil && !r.Force {
		return detached
	}
	if err := r.installedAgain(ctx); err != nil {
		return err
	}
	if err := r.removePlugins(); err != nil {
		return err
	}
	return r.removeRest(detached == nil)
}

// running returns ErrRunning if a daemon accepts connections on the socket. A socket file alone may be left from a
// daemon that was killed.
func (r Removal) running(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "unix", r.Socket)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return nil //nolint:nilerr // no daemon answers, which is the condition for going on
	}
	_ = conn.Close() // nothing was sent
	return ErrRunning
}

// installedAgain returns ErrInstalledAgain if there is a new installation after stopIntercepting: a daemon serves, or
// the runtime has a configuration of ours.
func (r Removal) installedAgain(ctx context.Context) error {
	if r.Force {
		return nil
	}
	err := r.running(ctx)
	if errors.Is(err, ErrRunning) {
		return ErrInstalledAgain
	}
	if err != nil {
		return err
	}
	confs, err := readConfs(r.ConfDir)
	if slices.ContainsFunc(confs, conf.writtenByMultus) {
		return ErrInstalledAgain
	}
	return err
}

// stopIntercepting removes our configuration files, after it has made sure that the node has another one.
func (r Removal) stopIntercepting() error {
	confs, err := readConfs(r.ConfDir)
	if err != nil {
		return err
	}
	var ours []conf
	other := false
	for _, c := range confs {
		switch {
		case c.writtenByMultus():
			ours = append(ours, c)
		case cniconf.CallsMultus(c.raw):
			r.Log.Warn("this configuration calls Multus, but Multus did not write it: remove it yourself", "file", c.path)
		case c.err == nil && c.name != "":
			other = true
		}
	}
	if len(ours) == 0 {
		return nil
	}
	if !other {
		if err := r.restore(ours); err != nil && !r.Force {
			return err
		}
	}
	for _, c := range ours {
		if err := fsx.Remove(c.path); err != nil {
			return fmt.Errorf("stop intercepting: %w", err)
		}
		r.Log.Info("removed CNI configuration", "file", c.path)
		for _, path := range c.clusterNetworks() {
			if err := cniconfig.RemoveForced(path); err != nil {
				return fmt.Errorf("remove the copy of the cluster network: %w", err)
			}
		}
	}
	return syncDir(r.ConfDir)
}

// restore restores the cluster network's configuration if the runtime's directory has only that of Multus: the cluster
// network's was renamed, is in another directory, or exists only inside ours.
func (r Removal) restore(ours []conf) error {
	for _, c := range ours {
		name, b := c.primary()
		if name == "" {
			continue
		}
		path := filepath.Join(r.ConfDir, name)
		if err := fsx.WriteAtomic(path, b, 0o600); err != nil {
			return fmt.Errorf("restore the cluster network: %w", err)
		}
		r.Log.Info("restored the configuration of the cluster network", "file", path)
		return nil
	}
	return fmt.Errorf("%w: %s has no other valid configuration. Install that of the cluster network, or give --force",
		ErrNoPrimary, r.ConfDir)
}

func describe(rec *ledger.Record) string {
	var networks []string
	pod := ""
	for _, a := range rec.Attachments {
		networks = append(networks, a.Name)
		if name := a.Args.Get(request.PodName); name != "" {
			pod = " of pod " + a.Args.Get(request.PodNamespace) + "/" + name
		}
	}
	return fmt.Sprintf("container %s%s (%s)", rec.ContainerID, pod, strings.Join(networks, ", "))
}

// list joins the items, up to a limit.
func list(items []string) string {
	const most = 10
	if len(items) <= most {
		return strings.Join(items, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(items[:most], "; "), len(items)-most)
}

// removePlugins removes the plugins, except those that a remaining configuration calls: without them the runtime would
// fail.
func (r Removal) removePlugins() error {
	confs, err := readConfs(r.ConfDir)
	if err != nil {
		return err
	}
	for _, name := range []string{shim, thin, passthru} {
		path := filepath.Join(r.BinDir, name)
		if i := slices.IndexFunc(confs, func(c conf) bool { return c.calls(name) }); i >= 0 {
			r.Log.Warn("plugin is kept: a configuration calls it", "file", path, "configuration", confs[i].path)
			continue
		}
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := fsx.Remove(path); err != nil {
			return fmt.Errorf("remove plugin: %w", err)
		}
		r.Log.Info("removed plugin", "file", path)
	}
	return fsx.Sweep(r.BinDir, inUse)
}

// removeRest removes what only Multus reads: the socket of a daemon that has ended, the thin plugin's credentials and,
// if it is empty, the state directory. The lock file stays, because a DEL may hold a lock, and /run is empty after a
// reboot.
func (r Removal) removeRest(state bool) error {
	own, memory := filepath.Join(r.ConfDir, "multus.d"), cniconfig.SavePath(r.StateDir)
	errs := []error{
		fsx.Remove(memory), removeEmpty(filepath.Dir(memory)),
		fsx.Remove(r.Socket),
		fsx.Remove(filepath.Join(own, "multus.kubeconfig")), fsx.Remove(filepath.Join(own, "multus.token")),
		removeEmpty(own),
	}
	if state {
		store := &ledger.Store{Dir: r.StateDir, Log: r.Log}
		errs = append(errs, store.RemoveNotes(), removeEmpty(filepath.Join(r.StateDir, "results")), removeEmpty(r.StateDir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the rest: %w", err)
	}
	return nil
}

// removeEmpty removes a directory, unless it has files or is a mount point.
func removeEmpty(dir string) error {
	err := unix.Rmdir(dir)
	switch err {
	case nil, unix.ENOENT, unix.ENOTEMPTY, unix.EEXIST, unix.EBUSY, unix.ENOTDIR:
		return nil
	}
	return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %q: %w", path, err)
	}
	d := &directory{file: f}
	defer d.close()
	if err := d.sync(); err != nil {
		return fmt.Errorf("sync %q: %w", path, err)
	}
	return nil
}
