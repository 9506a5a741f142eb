// Package engine implements the CNI verbs of the meta-plugin. Each verb has one file and goes through the same steps:
// request, plan, ledger, execute, publish. The thin and the thick plugin use the same engine and differ only in where
// the plan is made. The package has no Kubernetes client, opens no sockets and reads no process environment. Everything
// from outside is passed in through Deps. It is imported by the hosts and the tools.
package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/config"
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
)

// Limits of one request. They are below the runtimes' own limits, so that the runtime receives our error instead of
// reporting a timeout.
const (
	// ReadyLimit is how long an ADD waits for readinessindicatorfile (behaviour D11, O20).
	ReadyLimit = 45 * time.Second
	// AddLimit bounds an ADD. It includes ReadyLimit and excludes the undo. The kubelet gives up after two minutes.
	AddLimit = 90 * time.Second
	// UndoLimit bounds the undo of a failed ADD. DelLimit bounds a DEL.
	UndoLimit = 20 * time.Second
	DelLimit  = 60 * time.Second
	// DelReserve is the part of DelLimit that is reserved for each remaining network when a delegate hangs at DEL.
	DelReserve = 5 * time.Second
	// LockLimit is how long a verb waits for the sandbox's lock, which delegates of an earlier, killed operation may hold.
	LockLimit = 30 * time.Second
	// StatusLimit bounds STATUS. containerd calls STATUS every few seconds without a limit of its own and treats a node
	// whose STATUS hangs as not ready. With process start and exit included, STATUS stays below one second.
	StatusLimit = 800 * time.Millisecond
	// CheckLimit bounds a CHECK.
	CheckLimit = 30 * time.Second
	// delegateFloor is the minimum time of each delegate at DEL, however many delegates there are.
	delegateFloor = 2 * time.Second
	// publishLimit bounds the publication of a failure.
	publishLimit = 2 * time.Second
)

// Planner makes the plan for a request. It is implemented by an in-process resolver and by a client of the daemon.
type Planner interface {
	Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error)
}

// Publisher writes the network status and the events of a pod. With report.Wait, Publish returns when the status is
// written or when another process has taken over writing it. Publish returns an error only if the status is lost: no
// process will write it. A pod that no longer exists needs no status.
type Publisher interface {
	Publish(ctx context.Context, report *publish.Report) error
}

// StatusCache keeps the cluster network's STATUS result for a short time. Both calls are best effort.
type StatusCache interface {
	// Get returns the cached result for a configuration. known is false if there is no fresh result.
	Get(ctx context.Context, config []byte) (answer error, known bool)
	Put(ctx context.Context, config []byte, answer error)
}

// Netns looks for interfaces in network namespaces.
type Netns interface {
	// CheckFree returns an error if an interface of a plan exists in the sandbox already (behaviour D24).
	CheckFree(p *plan.Plan) error
	// HasInterface reports whether a namespace has an interface. A namespace that does not exist has none.
	HasInterface(netns, ifName string) (bool, error)
}

// hostNetns are the namespaces of the node.
type hostNetns struct{}

func (hostNetns) CheckFree(p *plan.Plan) error { return execute.CheckFree(p) }

func (hostNetns) HasInterface(netns, ifName string) (bool, error) {
	return execute.HasInterface(netns, ifName)
}

// Deps holds the engine's dependencies. Every field must be set, except where its comment allows a zero value.
type Deps struct {
	Planner   Planner
	Publisher Publisher
	Status    StatusCache
	// LockFile is the file with the locks of all sandboxes of the node.
	LockFile string
	// Boot identifies this boot of the node. It is "" if the boot is not known.
	Boot string
	// Stderr receives the standard error of successful delegates. If it is nil, that output is discarded.
	Stderr io.Writer
	// Netns is nil for the namespaces of the node.
	Netns Netns
	Log   *slog.Logger
}

// Engine runs the verbs. It keeps no state between calls and is safe for concurrent use.
type Engine struct{ deps Deps }

// New returns an engine.
func New(deps Deps) *Engine {
	if deps.Netns == nil {
		deps.Netns = hostNetns{}
	}
	return &Engine{deps: deps}
}

// call is one verb of one request. A verb for a sandbox runs while it holds the sandbox's lock.
type call struct {
	*Engine
	req   *request.Request
	conf  *config.Plugin
	store *ledger.Store
	lock  *os.File
	log   *slog.Logger
	// timings has the duration of each attachment that was tried.
	timings []publish.Timing
	// abandoned lists the networks that DEL has given up; see detaching.abandon.
	abandoned []string
}

// begin parses the configuration of a request and returns its call.
func (e *Engine) begin(req *request.Request) (*call, error) {
	conf, err := req.Plugin()
	if err != nil {
		return nil, err
	}
	log := e.deps.Log.With("cmd", req.Command, "pod", req.Pod(), "container", req.ContainerID)
	return &call{
		Engine: e, req: req, conf: conf,
		store: &ledger.Store{Dir: conf.CNIDir, BinDir: conf.BinDir, Boot: e.deps.Boot, Log: log}, log: log,
	}, nil
}

// locked runs fn while holding the sandbox's lock. It waits for the lock at most for limit.
func (c *call) locked(ctx context.Context, limit time.Duration, fn func() error) error {
	l, err := c.acquire(ctx, limit)
	if err != nil {
		return err
	}
	return c.runLocked(l, fn)
}

// lockedForDel is locked for a DEL. If only orphaned delegates hold the lock after LockLimit, it kills them and tries
// again.
func (c *call) lockedForDel(ctx context.Context, fn func() error) error {
	l, err := c.acquire(ctx, LockLimit)
	if errors.Is(err, fsx.ErrLocked) {
		if kept := c.endOrphans(); kept != nil {
			return errors.Join(err, kept)
		}
		l, err = c.acquire(ctx, orphanGrace)
	}
	if err != nil {
		return err
	}
	return c.runLocked(l, fn)
}

// acquire takes the sandbox's lock.
func (c *call) acquire(ctx context.Context, limit time.Duration) (*fsx.Lock, error) {
	failpoint.At("lock.before")
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l, err := ledger.Lock(waiting, c.deps.LockFile, c.req.ContainerID)
	if err != nil {
		return nil, fault.Wrap(err, fault.TryAgain, "nothing: the runtime tries again", "pod %s", c.req.Pod())
	}
	return l, nil
}

// runLocked runs fn with a lock that is already taken, and then releases the lock.
func (c *call) runLocked(l *fsx.Lock, fn func() error) error {
	c.lock = l.File()
	failpoint.At("lock.taken")
	err := errors.Join(fn(), l.Release())
	failpoint.At("lock.released")
	return err
}

// useState switches to the state directory of a plan, because the daemon's configuration may set cniDir (behaviour
// A90). It reports whether the directory changed.
func (c *call) useState(p *plan.Plan) bool {
	if p.Dirs.State == "" || p.Dirs.State == c.store.Dir {
		return false
	}
	c.store.Dir = p.Dirs.State
	return true
}

func (c *call) runner(dirs plan.Dirs) *execute.Runner {
	return execute.New(dirs.Binary, c.req.Path, dirs.State, c.lock, c.deps.Stderr, c.log)
}

// planFor returns the plan of a recorded sandbox: the attachments that ADD recorded, with the CNI_ARGS and the network
// namespace of the current request.
func (c *call) planFor(r *ledger.Record) *plan.Plan {
	p := &plan.Plan{
		CNIVersion: c.conf.CNIVersion, ContainerID: r.ContainerID, Netns: c.req.Netns,
		Dirs:        plan.Dirs{State: c.store.Dir, Binary: cmp.Or(r.BinDir, c.conf.BinDir)},
		Attachments: r.Attachments,
	}
	for i := range p.Attachments {
		a := &p.Attachments[i]
		now := c.req.Args.Delegate("")
		if len(c.req.Args) == 0 {
			now = nil
		}
		a.Args = plan.DelegateArgs(ledger.Merge(now, a.Args), a.Request)
		if a.Primary && a.RuntimeConfig == nil && len(c.conf.RuntimeConfig) > 0 {
			a.RuntimeConfig = c.conf.RuntimeConfig
		}
	}
	return p
}

// verbose logs one attachment in the format that users parse (behaviour L4).
func (c *call) verbose(ctx context.Context, verb string, a *plan.Attachment, what any, took time.Duration) {
	if !c.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	b, err := json.Marshal(what)
	if err != nil {
		b = []byte(err.Error())
	}
	name := a.Config.Name()
	if verb == "Add" {
		name = a.Name + "(" + name + ")"
	}
	args := c.req.Args
	line := fmt.Sprintf("%s: %s:%s:%s:%s:%s %s", verb, args.Get(request.PodNamespace), args.Get(request.PodName),
		cmp.Or(args.Get(request.PodUID), "unknownUID"), name, a.IfName, b)
	c.log.InfoContext(ctx, line, "seconds", took.Seconds()) //nolint:sloglint // the message format is fixed: users parse it
}

// timed records how long one attachment took.
func (c *call) timed(a *plan.Attachment, took time.Duration, err error) {
	c.timings = append(c.timings, publish.Timing{
		Network: a.Name, Plugin: a.Config.Types()[0], Seconds: took.Seconds(),
		Failed: err != nil,
	})
}

// convert returns a result in the version that the runtime expects (behaviour D26).
func convert(res types.Result, version string) (types.Result, error) {
	if version == "" {
		version = "0.1.0"
	}
	out, err := res.GetAsVersion(version)
	if err != nil {
		return nil, fmt.Errorf("convert result from version %s to %s: %w", res.Version(), version, err)
	}
	return out, nil
}

// withPod prefixes an error with the pod, once (behaviour D7), and appends the name of the request to its details.
func (c *call) withPod(err error) error {
	if err == nil {
		return nil
	}
	return fault.Answer(fault.ForRequest(c.podError(err), c.req.ContainerID), err)
}

func (c *call) podError(err error) *types.Error {
	ce := fault.ForRequest(err, "")
	msg := "Multus: " + ce.Msg
	if identity := c.identity(); identity != "" { // STATUS and GC have no sandbox
		msg = fmt.Sprintf("Multus: [%s]: %s", identity, ce.Msg)
	}
	return &types.Error{Code: ce.Code, Msg: msg, Details: cmp.Or(ce.Details, fault.Unforeseen)}
}

// pod returns the pod that the runtime names in CNI_ARGS.
func (c *call) pod() publish.Pod {
	a := c.req.Args
	return publish.Pod{Namespace: a.Get(request.PodNamespace), Name: a.Get(request.PodName), UID: a.Get(request.PodUID)}
}

func (c *call) identity() string {
	a := c.req.Args
	if a.Get(request.PodName) == "" {
		return c.req.ContainerID
	}
	return a.Get(request.PodNamespace) + "/" + a.Get(request.PodName) + "/" + a.Get(request.PodUID)
}
