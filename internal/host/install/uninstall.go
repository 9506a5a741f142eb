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

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

var (
	// ErrRunning is returned when a daemon serves on this node: it would write its configuration again.
	ErrRunning = errors.New("multus-daemon still runs on this node: delete its DaemonSet first")
	// ErrNoPrimary is returned when, without Multus, the node would have no CNI configuration at all.
	ErrNoPrimary = errors.New("no other CNI configuration: without that of Multus no pod could start on this node")
	// ErrAttached is returned when pods still have networks that only Multus can free.
	ErrAttached = errors.New("pods are still attached through Multus")
)

// dialLimit bounds the question whether a daemon runs.
const dialLimit = time.Second

// Removal says what is to be removed, and from where.
type Removal struct {
	ConfDir  string // the runtime's CNI configurations
	BinDir   string
	StateDir string // the ledger
	Socket   string // of the daemon
	// Force goes on where ErrRunning, ErrNoPrimary or ErrAttached would stop it.
	Force bool
	// Log tells what is done.
	Log *slog.Logger
}

// Uninstall takes Multus off a node, in the order in which the node works at every step (P04): first the
// configuration that makes the runtime call it, when another is there to take over; then, when no attachment is left
// that needs them, the plugins and the rest. It can be repeated, and goes on where it stopped or was killed.
//
// Reference plugins stay: by now other configurations may use them.
func Uninstall(ctx context.Context, r Removal) error {
	if err := r.running(ctx); err != nil && !r.Force {
		return err
	}
	if err := r.stopIntercepting(); err != nil {
		return err
	}
	attached, ended, err := r.attached()
	if err != nil && !r.Force {
		return err
	}
	if len(attached) > 0 && !r.Force {
		return fmt.Errorf("%w: %s. No new pod gets networks from Multus; its plugins stay, so that these can be deleted. "+
			"Delete them, or drain the node, and run this again; --force removes the plugins now and leaves what the pods hold reserved",
			ErrAttached, list(attached))
	}
	if err := r.removePlugins(); err != nil {
		return err
	}
	return r.removeRest(len(attached)+ended == 0 && err == nil)
}

// running asks the socket: a file may be left over from a daemon that was killed.
func (r Removal) running(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "unix", r.Socket)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return nil //nolint:nilerr // nobody answers, which is what is wanted
	}
	_ = conn.Close() // nothing was said
	return ErrRunning
}

// stopIntercepting removes our configuration; before, it sees to it that the node keeps one.
func (r Removal) stopIntercepting() error {
	confs, err := survey(r.ConfDir)
	if err != nil {
		return err
	}
	var ours []conf
	other := false
	for _, c := range confs {
		switch {
		case c.generated():
			ours = append(ours, c)
		case c.calls(thin) || c.calls(shim):
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
	}
	return syncDir(r.ConfDir)
}

// restore brings back the cluster network's configuration where the runtime sees that of Multus only: it was set
// aside, is kept in another directory, or exists inside ours alone.
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
	return fmt.Errorf("%w: %s holds nothing else that is valid. Install the cluster network's, or give --force", ErrNoPrimary, r.ConfDir)
}

// attached lists the sandboxes of the ledger that may exist, and counts those that have ended without a DEL: nothing
// of theirs is attached any more, but their addresses may be reserved, so their records are worth keeping.
func (r Removal) attached() (alive []string, ended int, _ error) {
	store := &ledger.Store{Dir: r.StateDir, Log: r.Log}
	ids, err := store.Containers()
	if err != nil {
		return nil, 0, err
	}
	slices.Sort(ids)
	for _, id := range ids {
		rec, err := store.Read(id, "eth0")
		switch {
		case err != nil || rec == nil:
			alive = append(alive, id) // what cannot be read may be anything
		case gone(rec.Netns):
			ended++
		default:
			alive = append(alive, describe(rec))
		}
	}
	if ended > 0 {
		r.Log.Warn("sandboxes ended without a DEL; their records are kept for a later clean-up", "sandboxes", ended, "dir", r.StateDir)
	}
	return alive, ended, nil
}

// gone tells that a network namespace is known to have ended. Where its directory is out of sight, as in a container,
// nothing is known.
func gone(netns string) bool {
	if netns == "" {
		return false
	}
	if _, err := os.Stat(filepath.Dir(netns)); err != nil {
		return false
	}
	_, err := os.Lstat(netns)
	return errors.Is(err, fs.ErrNotExist)
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

// list joins what fits a message.
func list(items []string) string {
	const most = 10
	if len(items) <= most {
		return strings.Join(items, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(items[:most], "; "), len(items)-most)
}

// removePlugins leaves those that a remaining configuration calls: without them the runtime would fail on it.
func (r Removal) removePlugins() error {
	confs, err := survey(r.ConfDir)
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
// if it is empty, the state directory. The locks stay where they are: a DEL may hold one, and /run is emptied at boot.
func (r Removal) removeRest(state bool) error {
	own := filepath.Join(r.ConfDir, "multus.d")
	errs := []error{
		fsx.Remove(r.Socket),
		fsx.Remove(filepath.Join(own, "multus.kubeconfig")),
		removeEmpty(own),
	}
	if state {
		errs = append(errs, removeEmpty(filepath.Join(r.StateDir, "results")), removeEmpty(r.StateDir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the rest: %w", err)
	}
	return nil
}

// removeEmpty removes a directory unless something is in it, or mounted on it, which then is not ours to lose.
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
