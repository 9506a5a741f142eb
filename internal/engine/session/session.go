// Package session holds what one call of a CNI verb works with: the parsed request, what it needs of the node, and the
// sandboxes that it has locked. It runs nothing and decides nothing. It is imported by the engine and by its parts,
// detach, hostdevice and reap.
package session

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/fsx"
)

// Publisher writes the network status and the events of a pod. With report.Wait, Publish returns when the status is
// written or when another process has taken over writing it. Publish returns an error only if the status is lost: no
// process will write it. A pod that no longer exists needs no status.
type Publisher interface {
	Publish(ctx context.Context, report *publish.Report) error
}

// Netns looks for interfaces in network namespaces.
type Netns interface {
	// CheckFree returns an error if an interface of a record exists in the sandbox already (behaviour D24).
	CheckFree(r *ledger.Record) error
	// HasInterface reports whether a namespace has an interface. A namespace that does not exist has none.
	HasInterface(netns, ifName string) (bool, error)
	// Interfaces returns the interfaces of a namespace. The error wraps link.ErrNoNamespace if the namespace is gone.
	Interfaces(netns string) ([]publish.Interface, error)
}

// Node is what all calls on a node share.
type Node struct {
	Publisher Publisher
	// LockFile is the file with the locks of all sandboxes of the node.
	LockFile string
	// Boot identifies this boot of the node. It is "" if the boot is not known.
	Boot string
	// Stderr receives the standard error of successful delegates. If it is nil, that output is discarded.
	Stderr io.Writer
	Netns  Netns
}

// Session is one call of a verb.
type Session struct {
	Node
	Request *request.Request
	// Conf is the configuration of the request. It is not changed.
	Conf *config.Plugin
	Log  *slog.Logger
	// Start is when the session began. Planned and Recorded are the times until an ADD was planned and recorded.
	Start             time.Time
	Planned, Recorded time.Duration
	// Traced reports whether a report has the steps of the ADD.
	Traced bool
}

// New returns the session of a request. Its error is that of the configuration.
func New(n Node, req *request.Request, log *slog.Logger) (*Session, error) {
	conf, err := req.Plugin()
	if err != nil {
		return nil, err
	}
	log = log.With("cmd", req.Command, "pod", req.Pod(), "container", req.ContainerID)
	return &Session{Node: n, Request: req, Conf: conf, Log: log, Start: time.Now()}, nil
}

// LedgerIn returns the ledger of a state directory: that of a plan, because the daemon's configuration may set cniDir
// (behaviour A90), or "" for the one of the request's configuration.
func (s *Session) LedgerIn(stateDir string) *ledger.Store {
	return &ledger.Store{
		Dir: cmp.Or(stateDir, s.Conf.CNIDir), BinDir: s.Conf.BinDir, Boot: s.Boot, Log: s.Log,
	}
}

// Pod returns the pod that the runtime names in CNI_ARGS.
func (s *Session) Pod() request.Pod { return s.Request.Args.Pod() }

// PodOf returns the pod of a record, as the runtime named it at ADD. It is the zero value if that was not recorded.
func PodOf(r *ledger.Record) request.Pod {
	for i := range r.Attachments {
		if pod := r.Attachments[i].Args.Pod(); pod.Name != "" {
			return pod
		}
	}
	return request.Pod{}
}

// BeforeBoot reports whether a sandbox was attached before the node was last started.
func (s *Session) BeforeBoot(r *ledger.Record) bool {
	return r.BeforeBoot(s.Boot)
}

// Lock waits at most limit for the lock of the request's sandbox. The error wraps fsx.ErrLocked if another operation
// holds it all the time.
func (s *Session) Lock(ctx context.Context, store *ledger.Store, limit time.Duration) (*Sandbox, error) {
	failpoint.At("lock.before")
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l, err := ledger.Lock(waiting, s.LockFile, s.Request.ContainerID)
	if err != nil {
		return nil, fault.SandboxBusy.Wrap(err, s.Request.Pod())
	}
	failpoint.At("lock.taken")
	return s.Locked(store, l), nil
}

// Locked returns the request's sandbox for a caller that has locked it. The lock stays the caller's.
func (s *Session) Locked(store *ledger.Store, lock *fsx.Lock) *Sandbox {
	return &Sandbox{Session: s, Ledger: store, lock: lock, Outcome: &Outcome{}}
}

// Delegates returns a runner of delegates without the lock of a sandbox, for verbs that have no sandbox.
func (s *Session) Delegates(stateDir, binDir string) *execute.Runner {
	return s.runner(stateDir, binDir, nil)
}

func (s *Session) runner(stateDir, binDir string, lock *os.File) *execute.Runner {
	return execute.New(execute.Options{
		BinDir: binDir, Path: s.Request.Path, StateDir: stateDir, Lock: lock, Stderr: s.Stderr,
		Prestart: s.Conf.Prestart == nil || *s.Conf.Prestart, Log: s.Log,
	})
}

// Sandbox is the sandbox of a request while its lock is held.
type Sandbox struct {
	*Session
	// Ledger is that of the sandbox's state directory.
	Ledger *ledger.Store
	lock   *fsx.Lock
	*Outcome
}

// Release releases the lock.
func (b *Sandbox) Release() error {
	err := b.lock.Release()
	failpoint.At("lock.released")
	return err
}

// In returns the same sandbox, with the same lock and outcome, in another state directory.
func (b *Sandbox) In(stateDir string) *Sandbox {
	other := *b
	other.Ledger = b.LedgerIn(stateDir)
	return &other
}

// Read returns the sandbox's record, or nil if it has none.
func (b *Sandbox) Read() (*ledger.Record, error) {
	return b.Ledger.Read(b.Request.ContainerID, b.Request.IfName)
}

// Delegates returns a runner of delegates that hold the sandbox's lock. A runner is for one goroutine.
func (b *Sandbox) Delegates(r *ledger.Record) *execute.Runner {
	return b.runner(b.Ledger.Dir, r.BinDir, b.lock.File())
}

// Current returns what a later verb executes of a recorded sandbox: the attachments that ADD recorded, with the
// CNI_ARGS and the network namespace of the current request.
func (b *Sandbox) Current(r *ledger.Record) *ledger.Record {
	now := *r
	now.Netns, now.BinDir = b.Request.Netns, cmp.Or(r.BinDir, b.Conf.BinDir)
	now.Attachments = append([]ledger.Attachment(nil), r.Attachments...)
	for i := range now.Attachments {
		a := &now.Attachments[i]
		var args request.Args
		if len(b.Request.Args) > 0 {
			args = b.Request.Args.Delegate("")
		}
		a.Args = plan.DelegateArgs(ledger.Merge(args, a.Args), a.Requested)
		if a.Primary && a.RuntimeConfig == nil && len(b.Conf.RuntimeConfig) > 0 {
			a.RuntimeConfig = b.Conf.RuntimeConfig
		}
	}
	return &now
}

// Outcome is what is reported about the delegates of one sandbox.
type Outcome struct {
	// Timings has the duration of each attachment that was tried.
	Timings []publish.Timing
	// GivenUp lists the networks whose plugins refuse DEL permanently.
	GivenUp []string
	// Claims are the devices of ResourceClaims whose attachments were deleted.
	Claims []device.Claim
}

// Timed records when the plugins of one attachment were called and how long they took.
func (b *Sandbox) Timed(a *ledger.Attachment, began time.Time, took time.Duration, err error) {
	b.Timings = append(b.Timings, publish.Timing{
		Network: a.Name, Plugin: a.Config.Types()[0], Begin: began.Sub(b.Start).Seconds(), Seconds: took.Seconds(),
		Failed: err != nil,
		Killed: execute.KilledBy(err),
	})
}
