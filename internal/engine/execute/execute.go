// Package execute executes a plan: it runs delegates through libcni, moves default routes, and keeps libcni's cached
// results up to date. It makes no decisions and keeps no state besides libcni's cache. It is imported by the engine and
// the host of the plugin.
package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/link"
)

// Runner runs the delegates of one request.
type Runner struct {
	exec *Exec
	cni  *libcni.CNIConfig
	path []string
	dir  string
	log  *slog.Logger
	// then has the delegate that follows those of the next verb, if any; see Then.
	then []delegate
}

// Options are the settings of a Runner.
type Options struct {
	// BinDir is searched for binaries, and then the directories of Path, which is CNI_PATH (behaviour K2).
	BinDir, Path string
	// StateDir is the directory below which results are cached (behaviour D84).
	StateDir string
	// Lock may be nil; otherwise it is passed to the delegates.
	Lock *os.File
	// Stderr may be nil; otherwise it receives the standard error of successful delegates.
	Stderr io.Writer
	// Prestart permits delegates to be started before their turn.
	Prestart bool
	Log      *slog.Logger
}

// New returns a runner. It is for one goroutine.
func New(o Options) *Runner {
	r := &Runner{dir: o.StateDir, log: o.Log}
	for _, d := range append([]string{o.BinDir}, filepath.SplitList(o.Path)...) {
		if d != "" && !slices.Contains(r.path, d) {
			r.path = append(r.path, d)
		}
	}
	r.exec = &Exec{
		Lock: o.Lock, Stderr: o.Stderr, Prestart: o.Prestart, paths: r.path, busy: isBusy, aheadLimit: aheadLimit,
	}
	r.cni = libcni.NewCNIConfigWithCacheDir(r.path, o.StateDir, r.exec)
	return r
}

// Add attaches one network. begun reports whether a delegate was executed. If so, the attachment needs a DEL, also
// after an error.
func (r *Runner) Add(ctx context.Context, of *ledger.Record, a *ledger.Attachment) (
	res types.Result, begun bool, err error,
) {
	list, rt, err := r.prepare(of, a)
	if err != nil {
		return nil, false, err
	}
	failpoint.At("add.before")
	r.exec.started = false
	r.follow(request.Add, list)
	res, err = r.cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		r.Close() // the next delegate does not run
		return nil, r.exec.started, err
	}
	failpoint.At("add.after")
	if a.Routes.None() {
		return res, true, nil
	}
	res, err = r.moveRoutes(of, a, res)
	return res, true, err
}

// Begun returns how many stages of a record's plan ADD reached. It is derived from libcni's results of the first n
// attachments: it counts the stages in which every attachment has a result, and the stage after them, in which ADD may
// have been killed. Begun must be called before this DEL or an earlier one has deleted any of these attachments. The
// attachments after them may have been deleted. stages are the record's StageNumbers.
func (r *Runner) Begun(of *ledger.Record, stages []int, n int) int {
	last := 0
	for i := range n {
		last = max(last, stages[i])
	}
	for i := range n {
		// After the first attachment without a result, only an attachment of an earlier stage can change the answer.
		if stages[i] < last && !r.cached(of, &of.Attachments[i]) {
			last = stages[i]
		}
	}
	return last + 1
}

// cached reports whether libcni has a result of an attachment.
func (r *Runner) cached(of *ledger.Record, a *ledger.Attachment) bool {
	name, err := entry(of, a)
	return err == nil && ledger.HasResult(r.dir, name)
}

// entry returns the name of libcni's cache entry of an attachment (behaviour D84).
func entry(of *ledger.Record, a *ledger.Attachment) (string, error) {
	return ledger.ResultName(a.Config.Name(), of.ContainerID, a.IfName)
}

// Check runs CHECK of one network (behaviour D45-D49). It returns nil if the network's configuration is older than
// CHECK.
func (r *Runner) Check(ctx context.Context, of *ledger.Record, a *ledger.Attachment) error {
	_, err := r.CheckCalled(ctx, of, a)
	return err
}

// CheckCalled is Check and also reports whether the delegates were called.
func (r *Runner) CheckCalled(ctx context.Context, of *ledger.Record, a *ledger.Attachment) (called bool, err error) {
	list, rt, err := r.prepare(of, a)
	if err != nil {
		return false, err
	}
	err = r.cni.CheckNetworkList(ctx, list, rt)
	if errors.Is(err, libcni.ErrorCheckNotSupp) || r.refusesInherited(a, err) {
		return false, nil
	}
	return !list.DisableCheck, err
}

// Version returns the newest CNI version that all plugins of a network support, IPAM plugins included, and that is not
// newer than limit. It returns "" if there is no such version, and an error if a plugin does not report its versions.
// An IPAM plugin that does not report its versions sets no limit: the plugin that calls it decides which version it
// gets.
func (r *Runner) Version(ctx context.Context, l *cniconf.List, limit string) (string, error) {
	var common []string
	asked := map[string]bool{"": true} // a plugin without IPAM
	types := l.Types()
	for i, typ := range append(types, l.IPAMTypes()...) {
		if asked[typ] {
			continue
		}
		asked[typ] = true
		info, err := r.cni.GetVersionInfo(ctx, typ)
		if err != nil && i >= len(types) && ctx.Err() == nil {
			r.log.Warn("the IPAM plugin does not report its versions", "network", l.Name(), "plugin", typ, "err", err)
			continue
		}
		if err != nil {
			return "", fmt.Errorf("get the versions of plugin %s: %w", typ, err)
		}
		supported := info.SupportedVersions()
		if i == 0 {
			common = supported
			continue
		}
		common = slices.DeleteFunc(slices.Clone(common), func(v string) bool { return !slices.Contains(supported, v) })
	}
	best := ""
	for _, v := range common {
		if atMost(v, limit) && (best == "" || atMost(best, v)) {
			best = v
		}
	}
	return best, nil
}

// atMost reports whether a version is not newer than limit. It returns false for a version that cannot be parsed.
func atMost(v, limit string) bool {
	ok, err := version.GreaterThanOrEqualTo(limit, v)
	return err == nil && ok
}

// Status runs STATUS of the delegates of one network (behaviour D93).
func (r *Runner) Status(ctx context.Context, a *ledger.Attachment) error {
	list, err := a.Config.Libcni()
	if err != nil {
		return err
	}
	if err = r.cni.GetStatusNetworkList(ctx, list); r.refusesInherited(a, err) {
		return nil
	}
	return err
}

// refusesInherited reports whether an error is only a plugin's refusal of a version that its configuration inherits
// from the outer configuration. Such a refusal does not mean that the node or the sandbox is broken.
func (r *Runner) refusesInherited(a *ledger.Attachment, err error) bool {
	if !a.Inherited || !isVersionRefusal(err) {
		return false
	}
	r.log.Warn("a plugin does not support the inherited cniVersion; give the network one of its own", "network", a.Name,
		"version", a.Config.Version(), "err", err)
	return true
}

// GC passes the valid attachments of one network to those of its delegates that implement the verb.
func (r *Runner) GC(ctx context.Context, config *cniconf.List, valid []types.GCAttachment) error {
	list, err := config.Libcni()
	if err != nil {
		return err
	}
	if valid == nil {
		valid = []types.GCAttachment{}
	}
	var missing error
	if !list.DisableGC {
		missing = r.withoutMissing(list)
	}
	// libcni would also delete the cached results that are not on the list. But an attachment may have been added since
	// the list was made, and stale ones have been deleted already. So this instance of libcni gets an empty cache.
	empty := libcni.NewCNIConfigWithCacheDir(r.path, filepath.Join(ledger.ResultsDir(r.dir), "none"), r.exec)
	return errors.Join(empty.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid}), missing)
}

// CheckFree returns an error if one of the record's interfaces exists in the sandbox. An existing interface belongs to
// another program or operation (behaviour D24, M19; D29: today's Multus may destroy it).
func CheckFree(of *ledger.Record) (err error) {
	ns, err := link.Open(of.Netns)
	if err != nil {
		return fault.NoNamespace.Wrap(err, of.Netns)
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	for i := range of.Attachments {
		a := &of.Attachments[i]
		exists, err := ns.HasInterface(a.IfName)
		if err != nil {
			return fmt.Errorf("network %s: %w", a.Name, err)
		}
		if exists {
			return fault.InterfaceExists.New(a.Name, a.IfName, of.Netns)
		}
	}
	return nil
}

// HasInterface reports whether a sandbox has an interface. It returns false for a namespace that is gone, and an error
// for a namespace that cannot be inspected.
func HasInterface(netns, ifName string) (exists bool, err error) {
	ns, err := link.Open(netns)
	if errors.Is(err, link.ErrNoNamespace) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	return ns.HasInterface(ifName)
}

// prepare returns libcni's arguments for a verb of one attachment. Before that it clears the path of the cache entry of
// anything that is not a regular file.
func (r *Runner) prepare(of *ledger.Record, a *ledger.Attachment) (
	*libcni.NetworkConfigList, *libcni.RuntimeConf, error,
) {
	r.exec.following = nil
	name, err := entry(of, a)
	if err == nil {
		err = ledger.ClearResult(r.dir, name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("network %s: %w", a.Name, err)
	}
	list, err := a.Config.Libcni()
	if err != nil {
		return nil, nil, fmt.Errorf("network %s: %w", a.Name, err)
	}
	return list, runtimeConf(of, a), nil
}

func runtimeConf(of *ledger.Record, a *ledger.Attachment) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: of.ContainerID, NetNS: of.Netns, IfName: a.IfName, Args: args(a.Args)}
	if len(a.RuntimeConfig) > 0 {
		rt.CapabilityArgs = make(map[string]any, len(a.RuntimeConfig))
		for k, v := range a.RuntimeConfig {
			rt.CapabilityArgs[k] = v
		}
	}
	return rt
}

func args(a request.Args) [][2]string {
	out := make([][2]string, len(a))
	copy(out, a)
	return out
}

// CheckNamespace returns nil if a network namespace exists, and an error that wraps link.ErrNoNamespace if it is gone.
// Any other error means that the namespace cannot be inspected now.
func CheckNamespace(netns string) error {
	ns, err := link.Open(netns)
	if err != nil {
		return err
	}
	return ns.Close()
}
