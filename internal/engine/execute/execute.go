// Package execute does what a plan says: it runs delegates through libcni, moves default routes, and keeps
// libcni's cached results in step. It decides nothing and remembers nothing beyond libcni's cache. Only the
// engine imports it.
package execute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/cniconf"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/engine/resultcache"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
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

// New makes a runner. Binaries are looked for in binDir, then in CNI_PATH (behaviour.md K2); results are
// cached below stateDir (D84); lock, if any, is passed to the delegates.
func New(binDir, cniPath, stateDir string, lock *os.File, log *slog.Logger) *Runner {
	r := &Runner{exec: &Exec{Lock: lock}, dir: stateDir, log: log}
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

// Del detaches one network. A plugin whose binary is missing does not keep the others of its chain from
// being deleted; it is an error only if it may hold something (behaviour.md K5).
func (r *Runner) Del(ctx context.Context, p *plan.Plan, a *plan.Attachment) error {
	list, rt, err := r.prepare(p, a)
	if err != nil {
		return err
	}
	entry, err := r.entry(p, a)
	if err != nil {
		return err
	}
	cached, err := r.cni.GetNetworkListCachedResult(list, rt)
	added := err != nil || cached != nil // a result that cannot be read is one all the same
	missing := r.withoutMissing(list)
	remembered, _ := resultcache.Read(r.dir, entry)
	err = errors.Join(r.cni.DelNetworkList(ctx, list, rt), missing)
	if missing != nil && remembered != nil {
		// libcni forgets an attachment whose list has been gone through; what the missing plugin holds is there yet.
		err = errors.Join(err, fsx.WriteAtomic(filepath.Join(resultcache.Dir(r.dir), entry), remembered, 0o600))
	}
	if err != nil && !added && (neverBegan(err) || !HasInterface(p.Netns, a.IfName)) {
		return &UnseenError{Err: err}
	}
	return err
}

// Begun is how many stages of a plan ADD came to, as the results of its first n attachments tell: all stages of which
// every attachment has one, and the stage after them, in which it may have been killed. It is asked while none of them has
// been deleted, by this DEL or an earlier one; those after them may have been.
func (r *Runner) Begun(p *plan.Plan, n int) int {
	last := 0
	for i := range n {
		last = max(last, p.StageOf(i))
	}
	for i := range n {
		if !r.cached(p, &p.Attachments[i]) {
			last = min(last, p.StageOf(i))
		}
	}
	return last + 1
}

// cached reports whether libcni has a result of an attachment.
func (r *Runner) cached(p *plan.Plan, a *plan.Attachment) bool {
	name, err := r.entry(p, a)
	if err != nil {
		return false
	}
	_, err = os.Lstat(filepath.Join(resultcache.Dir(r.dir), name))
	return err == nil
}

// UnseenError is the error of a DEL of which nothing is seen: libcni has no result of the attachment and the sandbox
// has no such interface. ADD never came to it, failed in it, or was killed in it. Its plugins were asked, so what they
// reserved is freed, unless they failed before they came to that. Some call a missing interface an error, at this and
// at every later DEL (host-device): the runtime would never get rid of the sandbox (P07).
type UnseenError struct{ Err error }

// Error is the error itself.
func (e *UnseenError) Error() string { return e.Err.Error() }

// Unwrap returns the error itself.
func (e *UnseenError) Unwrap() error { return e.Err }

// Answered tells that the plugin itself said why it failed.
func (e *UnseenError) Answered() bool {
	_, ok := errors.AsType[*types.Error](e.Err)
	return ok && !e.CutOff()
}

// CutOff tells that a plugin was ended before it had ended by itself.
func (e *UnseenError) CutOff() bool { return errors.Is(e.Err, errCutOff) }

// entry is the name of libcni's cache entry of an attachment (behaviour.md D84). What stands in its place without being a
// regular file is removed.
func (r *Runner) entry(p *plan.Plan, a *plan.Attachment) (string, error) {
	name, err := resultcache.Name(a.Config.Name(), p.ContainerID, a.IfName)
	if err == nil {
		err = resultcache.Clear(r.dir, name)
	}
	return name, err
}

// withoutMissing takes the plugins out of the list whose binaries cannot be found, and says so.
func (r *Runner) withoutMissing(list *libcni.NetworkConfigList) error {
	var errs []error
	list.Plugins = slices.DeleteFunc(list.Plugins, func(p *libcni.PluginConfig) bool {
		_, err := r.exec.FindInPath(p.Network.Type, r.path)
		errs = append(errs, err)
		return err != nil
	})
	return errors.Join(errs...)
}

// neverBegan tells that a plugin refuses the configuration's version: it has done nothing at ADD either.
func neverBegan(err error) bool {
	var ce *types.Error
	return errors.As(err, &ce) && ce.Code == types.ErrIncompatibleCNIVersion
}

// Check asks the delegates of one network whether all is still as it was (behaviour.md D45-D49).
func (r *Runner) Check(ctx context.Context, p *plan.Plan, a *plan.Attachment) error {
	list, rt, err := r.prepare(p, a)
	if err != nil {
		return err
	}
	err = r.cni.CheckNetworkList(ctx, list, rt)
	if errors.Is(err, libcni.ErrorCheckNotSupp) {
		return nil // older than CHECK: nothing to ask
	}
	return err
}

// Status asks the delegates of one network whether they can work (behaviour.md D93).
func (r *Runner) Status(ctx context.Context, a *plan.Attachment) error {
	list, err := a.Config.Libcni()
	if err != nil {
		return err
	}
	return r.cni.GetStatusNetworkList(ctx, list)
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
	// libcni would also delete what it remembers and the list does not have: somebody may have been attached since
	// the list was made, and what is stale has been deleted. So it is shown a cache with nothing in it.
	empty := libcni.NewCNIConfigWithCacheDir(r.path, filepath.Join(resultcache.Dir(r.dir), "none"), r.exec)
	return empty.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid})
}

// Free tells that none of the plan's interfaces exists in the sandbox. An interface that is there belongs
// to somebody (behaviour.md D24, M19; D29 [quirk]: it may be destroyed today).
func Free(p *plan.Plan) (err error) {
	ns, err := link.Open(p.Netns)
	if err != nil {
		return fault.Wrap(err, fault.TryAgain, "nothing, if the pod was deleted meanwhile; else look at the container runtime",
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
			return fault.New(fault.Internal, "choose another interface name for the network, or remove the sandbox if it is left over",
				"network %s: interface name %s already exists in %s", a.Name, a.IfName, p.Netns)
		}
	}
	return nil
}

// HasInterface tells whether a sandbox has an interface; a namespace that is gone has none.
func HasInterface(netns, ifName string) bool {
	ns, err := link.Open(netns)
	if err != nil {
		return false
	}
	exists, err := ns.HasInterface(ifName)
	return errors.Join(err, ns.Close()) == nil && exists
}

func (r *Runner) prepare(p *plan.Plan, a *plan.Attachment) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	if _, err := r.entry(p, a); err != nil {
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

// Exists tells whether a network namespace is still there.
func Exists(netns string) bool {
	ns, err := link.Open(netns)
	if err != nil {
		return false
	}
	return ns.Close() == nil
}
