// Package execute does what a plan says: it runs delegates through libcni, moves default routes, and keeps
// libcni's cached results in step. It decides nothing and remembers nothing beyond libcni's cache. Only the
// engine imports it.
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
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/engine/resultcache"
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
}

// New makes a runner. Binaries are looked for in binDir, then in CNI_PATH (behaviour.md K2); results are cached below
// stateDir (D84); lock, if any, is passed to the delegates. stderr, if any, gets what successful delegates write to
// their standard error.
func New(binDir, cniPath, stateDir string, lock *os.File, stderr io.Writer, log *slog.Logger) *Runner {
	r := &Runner{exec: &Exec{Lock: lock, Stderr: stderr}, dir: stateDir, log: log}
	for _, d := range append([]string{binDir}, filepath.SplitList(cniPath)...) {
		if d != "" && !slices.Contains(r.path, d) {
			r.path = append(r.path, d)
		}
	}
	r.cni = libcni.NewCNIConfigWithCacheDir(r.path, stateDir, r.exec)
	return r
}

// Add attaches one network. begun tells whether a delegate was executed: then a DEL is owed, also after an
// error.
func (r *Runner) Add(ctx context.Context, p *plan.Plan, a *plan.Attachment) (res types.Result, begun bool, err error) {
	list, rt, err := r.prepare(p, a)
	if err != nil {
		return nil, false, err
	}
	failpoint.At("add.before")
	r.exec.started = false
	res, err = r.cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		return nil, r.exec.started, err
	}
	failpoint.At("add.after")
	if a.Routes.None() {
		return res, true, nil
	}
	res, err = r.moveRoutes(p, a, res)
	return res, true, err
}

// Begun is how many stages of a plan ADD came to, as the results of its first n attachments tell: all stages of which
// every attachment has one, and the stage after them, in which it may have been killed. It is asked while none of them
// has been deleted, by this DEL or an earlier one; those after them may have been. stages are the plan's StageNumbers.
func (r *Runner) Begun(p *plan.Plan, stages []int, n int) int {
	last := 0
	for i := range n {
		last = max(last, stages[i])
	}
	for i := range n {
		// Beyond the first that has none, only an attachment of an earlier stage can change the answer.
		if stages[i] < last && !r.cached(p, &p.Attachments[i]) {
			last = stages[i]
		}
	}
	return last + 1
}

// cached reports whether libcni has a result of an attachment.
func (r *Runner) cached(p *plan.Plan, a *plan.Attachment) bool {
	name, err := entry(p, a)
	return err == nil && resultcache.Has(r.dir, name)
}

// entry returns the name of libcni's cache entry of an attachment (behaviour.md D84).
func entry(p *plan.Plan, a *plan.Attachment) (string, error) {
	return resultcache.Name(a.Config.Name(), p.ContainerID, a.IfName)
}

// Check asks the delegates of one network whether all is still as it was (behaviour.md D45-D49). A network whose
// configuration is older than CHECK passes.
func (r *Runner) Check(ctx context.Context, p *plan.Plan, a *plan.Attachment) error {
	_, err := r.CheckAsked(ctx, p, a)
	return err
}

// CheckAsked is Check, and reports whether the delegates were asked.
func (r *Runner) CheckAsked(ctx context.Context, p *plan.Plan, a *plan.Attachment) (asked bool, err error) {
	list, rt, err := r.prepare(p, a)
	if err != nil {
		return false, err
	}
	err = r.cni.CheckNetworkList(ctx, list, rt)
	if errors.Is(err, libcni.ErrorCheckNotSupp) || r.refusesInherited(a, err) {
		return false, nil
	}
	return !list.DisableCheck, err
}

// Version chooses the newest CNI version that all plugins of a network support, IPAM plugins included, and that is not
// newer than limit. It returns "" if a plugin does not say, or supports none of them. An IPAM plugin that does not say
// sets no limit: the plugin that calls it decides what it gets.
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
			r.log.Warn("the IPAM plugin does not tell its versions", "network", l.Name(), "plugin", typ, "err", err)
			continue
		}
		if err != nil {
			return "", fmt.Errorf("ask plugin %s for its versions: %w", typ, err)
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

// atMost reports whether a version is not newer than another one. One that cannot be parsed is not.
func atMost(v, limit string) bool {
	ok, err := version.GreaterThanOrEqualTo(limit, v)
	return err == nil && ok
}

// Status asks the delegates of one network whether they can work (behaviour.md D93).
func (r *Runner) Status(ctx context.Context, a *plan.Attachment) error {
	list, err := a.Config.Libcni()
	if err != nil {
		return err
	}
	if err = r.cni.GetStatusNetworkList(ctx, list); r.refusesInherited(a, err) {
		return nil
	}
	return err
}

// refusesInherited reports whether an error is nothing but a plugin's refusal of a version that its configuration does
// not have: it inherited the version of the outer configuration. Neither a node nor a sandbox is broken for that.
func (r *Runner) refusesInherited(a *plan.Attachment, err error) bool {
	if !a.Inherited || !isVersionRefusal(err) {
		return false
	}
	r.log.Warn("a plugin does not support the inherited cniVersion; give the network one of its own", "network", a.Name,
		"version", a.Config.Version(), "err", err)
	return true
}

// GC tells the delegates of one network which of its attachments are valid, if they know the verb.
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
	// libcni would also delete what it remembers and the list does not have: somebody may have been attached since
	// the list was made, and what is stale has been deleted. So it is shown a cache with nothing in it.
	empty := libcni.NewCNIConfigWithCacheDir(r.path, filepath.Join(resultcache.Dir(r.dir), "none"), r.exec)
	return errors.Join(empty.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid}), missing)
}

// Free tells that none of the plan's interfaces exists in the sandbox. An interface that is there belongs
// to somebody (behaviour.md D24, M19; D29 [quirk]: it may be destroyed today).
func Free(p *plan.Plan) (err error) {
	ns, err := link.Open(p.Netns)
	if err != nil {
		return fault.Wrap(err, fault.TryAgain,
			"nothing, if the pod was deleted meanwhile; else look at the container runtime",
			"no net namespace %s found", p.Netns)
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	for i := range p.Attachments {
		a := &p.Attachments[i]
		exists, err := ns.HasInterface(a.IfName)
		if err != nil {
			return fmt.Errorf("network %s: %w", a.Name, err)
		}
		if exists {
			return fault.New(fault.Internal,
				"choose another interface name for the network, or remove the sandbox if it is left over",
				"network %s: interface name %s already exists in %s", a.Name, a.IfName, p.Netns)
		}
	}
	return nil
}

// HasInterface reports whether a sandbox has an interface. A namespace that is gone has none; one that cannot be looked
// at is an error.
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

// prepare returns what libcni needs for a verb of one attachment, after a look at the place of the cache entry.
func (r *Runner) prepare(p *plan.Plan, a *plan.Attachment) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	name, err := entry(p, a)
	if err == nil {
		err = resultcache.Clear(r.dir, name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("network %s: %w", a.Name, err)
	}
	list, err := a.Config.Libcni()
	if err != nil {
		return nil, nil, fmt.Errorf("network %s: %w", a.Name, err)
	}
	return list, runtimeConf(p, a), nil
}

func runtimeConf(p *plan.Plan, a *plan.Attachment) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: p.ContainerID, NetNS: p.Netns, IfName: a.IfName, Args: args(a.Args)}
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

// Look returns nil if a network namespace is there, and an error that wraps link.ErrNoNamespace if it is gone. Any
// other error says that it cannot be looked at now.
func Look(netns string) error {
	ns, err := link.Open(netns)
	if err != nil {
		return err
	}
	return ns.Close()
}
