// Package engine is the verbs of the meta-plugin: request, plan, ledger, execute, publish, in this order,
// one file for each verb. It is the same engine in the thin plugin and in the thick one: they differ only in
// where the plan is made. It knows no Kubernetes client, no sockets, no process environment: all that comes
// in through Deps. Only the hosts import it.
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

// Limits of one request. They are below the runtimes' own, so that the answer is ours.
const (
	// ReadyLimit is how long an ADD waits for readinessindicatorfile (behaviour.md D11, O20).
	ReadyLimit = 45 * time.Second
	// AddLimit bounds an ADD, ReadyLimit included, undo not; kubelet gives up after two minutes.
	AddLimit = 90 * time.Second
	// UndoLimit bounds the undo of a failed ADD, and DelLimit a DEL.
	UndoLimit = 20 * time.Second
	DelLimit  = 60 * time.Second
	// DelReserve is what a delegate that hangs at DEL leaves of that time to each network after it.
	DelReserve = 5 * time.Second
	// LockLimit is how long DEL waits for what an earlier, killed operation left running.
	LockLimit = 30 * time.Second
	// StatusLimit bounds STATUS: containerd calls it every few seconds without a limit of its own, and takes a node whose
	// STATUS hangs for not ready. With the start and the end of the process it stays below a second.
	StatusLimit = 800 * time.Millisecond
	// CheckLimit bounds a CHECK.
	CheckLimit = 30 * time.Second
	// delegateFloor is the time that each delegate has at DEL at least, however many there are.
	delegateFloor = 2 * time.Second
	// tellLimit bounds the telling of a failure.
	tellLimit = 2 * time.Second
)

// Planner says what is to be done for a request: a resolver in process, or the daemon.
type Planner interface {
	Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error)
}

// Publisher writes the network status and the events of a pod. With report.Wait it returns when the status is written,
// or will be written later by another process. It returns an error only if the status is lost: no process will write
// it. A pod that is gone needs no status.
type Publisher interface {
	Publish(ctx context.Context, report *publish.Report) error
}

// StatusCache remembers for a moment what the cluster network answered to STATUS. Both calls are best effort.
type StatusCache interface {
	// Last returns the fresh answer for a configuration; known is false when there is none.
	Last(ctx context.Context, config []byte) (answer error, known bool)
	Remember(ctx context.Context, config []byte, answer error)
}

// Deps is all that the engine needs from outside; every field must be set.
type Deps struct {
	Planner   Planner
	Publisher Publisher
	Status    StatusCache
	// LockFile holds the locks of all sandboxes of the node.
	LockFile string
	// Boot is the identity of this boot of the node, "" if it cannot be told.
	Boot string
	// Stderr receives what successful delegates write to their standard error; nil for nowhere.
	Stderr io.Writer
	Log    *slog.Logger
}

// Engine runs the verbs. It keeps nothing between calls and is safe for concurrent use.
type Engine struct{ deps Deps }

// New makes an engine.
func New(deps Deps) *Engine { return &Engine{deps: deps} }

// call is one verb for one sandbox, under its lock.
type call struct {
	*Engine
	req   *request.Request
	conf  *config.Plugin
	store *ledger.Store
	lock  *os.File
	log   *slog.Logger
	// timings of the delegates that were run.
	timings []publish.Timing
	// abandoned are the networks that DEL has given up; see detaching.abandon.
	abandoned []string
}

// begin parses the configuration.
func (e *Engine) begin(req *request.Request) (*call, error) {
	conf, err := config.ParsePlugin(req.Config)
	if err != nil {
		return nil, err
	}
	log := e.deps.Log.With("cmd", req.Command, "pod", req.Pod(), "container", req.ContainerID)
	return &call{
		Engine: e, req: req, conf: conf,
		store: &ledger.Store{Dir: conf.CNIDir, BinDir: conf.BinDir, Boot: e.deps.Boot, Log: log}, log: log,
	}, nil
}

// locked runs fn while holding the sandbox's lock.
func (c *call) locked(ctx context.Context, limit time.Duration, fn func() error) error {
	l, err := c.acquire(ctx, limit)
	if err != nil {
		return err
	}
	return c.holding(l, fn)
}

// lockedForDel is locked for a DEL: delegates that have held the lock for all of LockLimit without a plugin are ended.
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
	return c.holding(l, fn)
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

// holding runs fn and releases the sandbox's lock.
func (c *call) holding(l *fsx.Lock, fn func() error) error {
	c.lock = l.File()
	failpoint.At("lock.taken")
	err := errors.Join(fn(), l.Release())
	failpoint.At("lock.released")
	return err
}

// useState makes the state directory that of a plan, and reports whether it is another one: the daemon's configuration
// may set cniDir (behaviour.md A90).
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

// planFor makes the plan of a recorded sandbox: what ADD did, with what the runtime says now.
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

// verbose logs one attachment in the form that people parse (behaviour.md L4).
func (c *call) verbose(ctx context.Context, verb string, a *plan.Attachment, what any, took time.Duration) {
	if !c.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	b, err := json.Marshal(what)
	if err != nil {
		b = []byte(err.Error())
	}
	args := c.req.Args
	line := fmt.Sprintf("%s: %s:%s:%s:%s(%s):%s %s", verb, args.Get(request.PodNamespace), args.Get(request.PodName),
		cmp.Or(args.Get(request.PodUID), "unknownUID"), a.Name, a.Config.Name(), a.IfName, b)
	c.log.InfoContext(ctx, line, "seconds", took.Seconds()) //nolint:sloglint // the message is a format of its own
}

// timed notes how long the delegates of a network took.
func (c *call) timed(a *plan.Attachment, took time.Duration, err error) {
	c.timings = append(c.timings, publish.Timing{
		Network: a.Name, Plugin: a.Config.Types()[0], Seconds: took.Seconds(),
		Failed: err != nil,
	})
}

// convert returns a result in the version that the runtime expects (behaviour.md D26).
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

// inPod puts the pod in front of an error, once (behaviour.md D7), and the request at its end.
func (c *call) inPod(err error) error {
	if err == nil {
		return nil
	}
	return fault.Answer(fault.ForRequest(c.ofPod(err), c.req.ContainerID), err)
}

func (c *call) ofPod(err error) *types.Error {
	ce := fault.ForRequest(err, "")
	msg := "Multus: " + ce.Msg
	if identity := c.identity(); identity != "" { // STATUS and GC are about no sandbox
		msg = fmt.Sprintf("Multus: [%s]: %s", identity, ce.Msg)
	}
	return &types.Error{Code: ce.Code, Msg: msg, Details: cmp.Or(ce.Details, fault.Unforeseen)}
}

// pod is the pod of the request, as the runtime names it.
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
