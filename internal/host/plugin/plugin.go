// Package plugin is the process edge of the CNI plugins: environment, standard input and output, exit code. A Host
// provides what differs between the thin and the thick plugin. The package links neither the Kubernetes client nor
// net/http, because every pod waits for the start of multus-shim. cmd and the thin host import it.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"multus/internal/config"
	"multus/internal/engine"
	"multus/internal/engine/execute"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	"multus/internal/logging"
	"multus/internal/node"
	"multus/internal/version"
	wirev1 "multus/wire/v1"
)

const about = "meta-plugin that delegates to other CNI plugins"

// Host is one kind of plugin, thin or thick.
type Host struct {
	// Name is the name of the binary, for -version.
	Name string
	// LogToStderr is the default of the key logToStderr (behaviour A29, A50).
	LogToStderr bool
	// Connect returns the planner and the publisher of a request. It must neither fail nor block: they open what they need
	// at first use, so that a DEL from the ledger depends on nothing else.
	Connect func(conf *config.Plugin, log *slog.Logger) Connection
}

// Connection connects the engine with its planner, its publisher and its cache of STATUS results.
type Connection interface {
	engine.Planner
	engine.Publisher
	engine.StatusCache
	// HasWork reports whether the daemon has said that it has work for a runner.
	HasWork() bool
}

// Run runs the plugin once and returns its exit code: 0, or 1 with a CNI error object on standard output (behaviour
// D1-D4, K11).
func Run(args []string, stdout io.Writer, h Host) int {
	failpoint.At("plugin.started")
	for _, a := range args {
		switch a {
		case "-v", "--v", "-version", "--version":
			fmt.Fprintf(stdout, "%s: %s\n", h.Name, version.String())
			return 0
		case "-h", "--help", "-help":
			fmt.Fprintf(stdout, "%s: %s.\n\nA container runtime runs it, with CNI_COMMAND in the environment and the "+
				"configuration on\nstandard input (https://www.cni.dev/docs/spec/). Options: --version, --help.\n", h.Name, about)
			return 0
		}
	}
	// A runtime that gives up sends a signal. The context then ends, and what was begun is undone. The signals are never
	// stopped: that would wake a goroutine, for which the Go runtime may start a thread while the process exits.
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	v := &verbs{ctx: ctx, host: h}
	funcs := skel.CNIFuncs{Add: v.add, Del: v.del, Check: v.check, GC: v.gc, Status: v.status}
	code := 0
	if err := skel.PluginMainFuncsWithError(funcs, cniversion.All, about); err != nil {
		if perr := err.Print(); perr != nil {
			fmt.Fprintln(os.Stderr, "print the CNI error:", perr)
		}
		code = 1
	}
	if v.conn != nil && v.conn.HasWork() { // the runtime has its answer
		startRunner(v.req.Config, v.req.Path, v.log)
	}
	return code
}

// verbs has the functions that skel calls for the CNI commands of one request.
type verbs struct {
	ctx  context.Context //nolint:containedctx // skel passes none
	host Host
	// conn and req are nil until the daemon may have been asked.
	conn Connection
	req  *request.Request
	log  *slog.Logger // nil until the configuration, which has the log settings, is parsed
}

func (v *verbs) add(args *skel.CmdArgs) error {
	req, e, err := v.prepare(request.Add, args)
	if err != nil {
		return v.failed(request.Add, args, err)
	}
	res, err := e.Add(v.ctx, req)
	if err != nil {
		return v.failed(request.Add, args, err)
	}
	failpoint.At("result.before")
	err = types.PrintResult(res, res.Version())
	failpoint.At("result.after")
	return err
}

func (v *verbs) del(args *skel.CmdArgs) error {
	return v.simple(request.Del, args, (*engine.Engine).Del)
}

func (v *verbs) check(args *skel.CmdArgs) error {
	return v.simple(request.Check, args, (*engine.Engine).Check)
}

func (v *verbs) gc(args *skel.CmdArgs) error {
	return v.simple(request.GC, args, (*engine.Engine).GC)
}

func (v *verbs) status(args *skel.CmdArgs) error {
	return v.simple(request.Status, args, (*engine.Engine).Status)
}

func (v *verbs) simple(command string, args *skel.CmdArgs,
	verb func(*engine.Engine, context.Context, *request.Request) error,
) error {
	req, e, err := v.prepare(command, args)
	if err != nil {
		return v.failed(command, args, err)
	}
	if err := verb(e, v.ctx, req); err != nil {
		return v.failed(command, args, err)
	}
	failpoint.At("verb.done")
	return nil
}

// failed converts an error for the runtime, and logs it with the same text. All errors leave the plugin here.
func (v *verbs) failed(command string, args *skel.CmdArgs, err error) error {
	ce := fault.ForRequest(err, args.ContainerID)
	if v.log != nil {
		v.log.Error("request failed", "cmd", command, "container", args.ContainerID, "code", ce.Code, "err", ce.Error())
	}
	return ce
}

// Guard returns an error if Multus was called by its own delegate, which stops a recursion at once (multus-cni#1130).
// It also marks the delegates of this process, so that DEL finds those that a killed process has left.
func Guard(command string) error {
	if os.Getenv(execute.DepthEnv) != "" {
		return fault.CalledByDelegate.New(command)
	}
	return os.Setenv(execute.DepthEnv, "1") //nolint:forbidigo // delegates inherit the environment; this is the edge
}

// traceParent returns the trace of which the runtime's call is a part, or "". Delegates inherit the variable.
func traceParent() string {
	if v := os.Getenv("TRACEPARENT"); len(v) <= wirev1.MaxTraceParent {
		return v
	}
	return ""
}

// prepare makes the request and the engine. Invalid CNI_ARGS are an error for every command except DEL, for which the
// record of the ledger suffices (behaviour D8, E15).
func (v *verbs) prepare(command string, args *skel.CmdArgs) (*request.Request, *engine.Engine, error) {
	failpoint.At("plugin.read")
	if err := Guard(command); err != nil {
		return nil, nil, err
	}
	req := &request.Request{
		Command: command, ContainerID: args.ContainerID, Netns: args.Netns, IfName: args.IfName, Path: args.Path,
		Config: args.StdinData, TraceParent: traceParent(),
	}
	conf, err := req.Plugin()
	if err != nil {
		return nil, nil, err
	}
	v.log = Logger(conf, v.host)
	req.Args, err = request.ParseArgs(args.Args)
	if err != nil {
		if command != request.Del {
			return nil, nil, err
		}
		v.log.Warn("going on without CNI_ARGS", "container", args.ContainerID, "err", err)
	}
	failpoint.At("plugin.parsed")
	c := v.host.Connect(conf, v.log)
	v.conn, v.req = c, req
	return req, engine.New(engine.Deps{
		Planner: c, Publisher: c, Status: c, LockFile: node.LockFile, Boot: node.Boot(), Stderr: os.Stderr, Log: v.log,
	}), nil
}

// Logger returns the logger that a configuration describes.
func Logger(conf *config.Plugin, h Host) *slog.Logger {
	level, err := logging.ParseLevel(conf.LogLevel, logging.LevelPanic)
	o := logging.Options{Level: level, File: conf.LogFile, Rotate: conf.LogOptions}
	if conf.LogToStderr == nil && h.LogToStderr || conf.LogToStderr != nil && *conf.LogToStderr {
		o.Stderr = os.Stderr
	}
	log := logging.New(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return log
}

// tryAgain returns the CNI error for a daemon that does not answer. A CNI error of the daemon is returned unchanged.
func tryAgain(err error, req *request.Request) error {
	if ce, ok := errors.AsType[*types.Error](err); ok {
		return ce
	}
	return fault.DaemonUnavailable.Wrap(err, req.Pod())
}
