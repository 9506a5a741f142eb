// Package engine implements the CNI verbs of the meta-plugin. Each verb has one file and goes through the same steps:
// request, plan, ledger, execute, publish. The thin and the thick plugin use the same engine and differ only in where
// the plan is made. The package has no Kubernetes client, opens no sockets and reads no process environment. Everything
// from outside is passed in through Deps. It is imported by the hosts and the tools.
package engine

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/config"
	"multus/internal/engine/execute"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/fault"
)

// Limits of one request. They are below the runtimes' own limits, so that the runtime receives our error instead of
// reporting a timeout.
const (
	// ReadyLimit is how long an ADD waits for readinessindicatorfile (behaviour D11, O20).
	ReadyLimit = 45 * time.Second
	// AddLimit bounds an ADD. It includes ReadyLimit and excludes the undo. The kubelet gives up after two minutes.
	AddLimit = 90 * time.Second
	// DelLimit bounds a DEL. The undo of a failed ADD has detach.UndoLimit.
	DelLimit = 60 * time.Second
	// LockLimit is how long a verb waits for the sandbox's lock, which delegates of an earlier, killed operation may hold.
	LockLimit = 30 * time.Second
	// StatusLimit bounds STATUS. containerd calls STATUS every few seconds without a limit of its own and treats a node
	// whose STATUS hangs as not ready. With process start and exit included, STATUS stays below one second.
	StatusLimit = 800 * time.Millisecond
	// CheckLimit bounds a CHECK.
	CheckLimit = 30 * time.Second
	// publishLimit bounds the publication of a failure.
	publishLimit = 2 * time.Second
)

// Planner makes the plan for a request. It is implemented by an in-process resolver and by a client of the daemon.
type Planner interface {
	Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error)
}

// Publisher writes the network status and the events of a pod.
type Publisher = session.Publisher

// Netns looks for interfaces in network namespaces.
type Netns = session.Netns

// StatusCache keeps the cluster network's STATUS result for a short time. Both calls are best effort.
type StatusCache interface {
	// Get returns the cached result for a configuration. known is false if there is no fresh result.
	Get(ctx context.Context, config []byte) (answer error, known bool)
	Put(ctx context.Context, config []byte, answer error)
}

// hostNetns are the namespaces of the node.
type hostNetns struct{}

func (hostNetns) CheckFree(r *ledger.Record) error { return execute.CheckFree(r) }

func (hostNetns) HasInterface(netns, ifName string) (bool, error) {
	return execute.HasInterface(netns, ifName)
}

// Deps holds the engine's dependencies. Every field must be set, except where its comment allows a zero value.
type Deps struct {
	Planner   Planner
	Publisher Publisher
	Status    StatusCache
	// Differ is for Apply only.
	Differ Differ
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

// begin returns the session of a request.
func (e *Engine) begin(req *request.Request) (*session.Session, error) {
	return session.New(session.Node{
		Publisher: e.deps.Publisher, LockFile: e.deps.LockFile, Boot: e.deps.Boot, Stderr: e.deps.Stderr,
		Netns: e.deps.Netns,
	}, req, e.deps.Log)
}

// chooseVersions selects a cniVersion for each network whose configuration has none. Such a network inherits the
// version of the outer configuration, which may be newer than its plugins support. ADD selects the version before the
// record is written, so that DEL uses the same one (behaviour B5). Every verb without a record selects it again. If the
// plugins do not report their versions, the network keeps the outer version.
func chooseVersions(ctx context.Context, run *execute.Runner, r *ledger.Record) error {
	for i := range r.Attachments {
		a := &r.Attachments[i]
		if !a.Inherited {
			continue
		}
		chosen, err := run.Version(ctx, a.Config, a.Config.Version())
		if err != nil || chosen == "" || chosen == a.Config.Version() {
			continue // the plugin reports the problem at ADD
		}
		if a.Config, err = a.Config.WithVersion(chosen); err != nil {
			return fmt.Errorf("network %s: %w", a.Name, err)
		}
	}
	return nil
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
func withPod(req *request.Request, err error) error {
	if err == nil {
		return nil
	}
	return fault.Answer(fault.ForRequest(podError(req, err), req.ContainerID), err)
}

func podError(req *request.Request, err error) *types.Error {
	ce := fault.ForRequest(err, "")
	msg := "Multus: " + ce.Msg
	if identity := identity(req); identity != "" { // STATUS and GC have no sandbox
		msg = fmt.Sprintf("Multus: [%s]: %s", identity, ce.Msg)
	}
	return &types.Error{Code: ce.Code, Msg: msg, Details: cmp.Or(ce.Details, fault.Unforeseen)}
}

func identity(req *request.Request) string {
	a := req.Args
	if a.Get(request.PodName) == "" {
		return req.ContainerID
	}
	return a.Get(request.PodNamespace) + "/" + a.Get(request.PodName) + "/" + a.Get(request.PodUID)
}
