// Package runner is the process edge of the runner: multus-shim in its long form on the host, which changes the
// networks of running pods as the daemon decides. One runs per node. It ends when there is no work, so that nothing
// runs on a node whose pods do not change. Only cmd/multus-shim imports it.
package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine"
	"multus/internal/engine/detach"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/failpoint"
	"multus/internal/fsx"
	"multus/internal/host/plugin"
	"multus/internal/node"
	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

const (
	// lockKey and the path of the daemon's socket are the key of the lock that its runner holds.
	lockKey = "runner of "
	// workWait is how long one request waits for work, and requestLimit how long the runner waits for its answer.
	workWait     = 25 * time.Second
	requestLimit = workWait + 10*time.Second
	// retryPause is the pause after a request that the daemon did not answer.
	retryPause = time.Second
	// DefaultLinger is how long a runner waits for more work.
	DefaultLinger = 30 * time.Second
	// workers is the number of pods that are changed at the same time.
	workers = 4
	// StopLimit is how long a runner may take to end after SIGTERM: it finishes or undoes the network that it works on. A
	// service manager must wait so long.
	StopLimit = engine.ApplyLimit + detach.UndoLimit
	// maxConfig limits the size of the configuration.
	maxConfig = 4 << 20
)

const usage = `multus-shim runner: changes the networks of running pods, as multus-daemon decides.

The daemon decides and is not privileged; this program runs the CNI plugins on the host. The plugin starts it by
itself when a container runtime calls it and the daemon has work, and it ends when there has been no work for a while.
On a node whose runtime does not call STATUS it can be started as a service; see docs/hot-plug.md.

Options:
  --config FILE     CNI configuration that calls Multus: a file, a directory in which the first such file is used,
                    or - for standard input (default ` + defaultConfig + `)
  --cni-path DIRS   directories of the CNI plugins, separated by colons (default: CNI_PATH, else ` + defaultPath + `)
  --linger TIME     end after this time without work, 0 for never (default 30s)
  --in-node         from a privileged pod in the node's PID namespace: run on the node itself, where the container
                    runtime runs
`

const (
	inNodeFlag    = "--in-node"
	defaultConfig = "/etc/cni/net.d"
	defaultPath   = "/opt/cni/bin"
)

// options are the command line.
type options struct {
	config string
	path   string
	linger time.Duration
	// fixed reports whether linger was given.
	fixed bool
	// inNode reports whether the program is in a container and has to enter the node.
	inNode bool
}

// Run runs the runner and returns its exit code: 0, also if another runner runs already, or 1 with a message on stderr,
// or 2 for a wrong argument.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	o := options{config: defaultConfig, path: cmp.Or(getenv("CNI_PATH"), defaultPath), linger: DefaultLinger}
	help, err := o.parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "multus-shim runner:", err, "(see multus-shim runner --help)")
		return 2
	}
	if help {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if o.inNode {
		err := node.Enter(append([]string{"multus-shim", plugin.RunnerCommand}, withoutInNode(args)...), os.Environ())
		fmt.Fprintln(stderr, "multus-shim runner:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, &o, stdin); err != nil {
		fmt.Fprintln(stderr, "multus-shim runner:", err)
		return 1
	}
	return 0
}

func withoutInNode(args []string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == inNodeFlag })
}

// parse reads the command line. Package flag would make the plugin larger for every pod.
func (o *options) parse(args []string) (help bool, err error) {
	for len(args) > 0 {
		name, value, given := strings.Cut(args[0], "=")
		args = args[1:]
		switch name {
		case "-h", "--help":
			return true, nil
		case inNodeFlag:
			if given {
				return false, fmt.Errorf("%s takes no value", name)
			}
			o.inNode = true
			continue
		case "--config", "--cni-path", "--linger":
		default:
			return false, fmt.Errorf("unknown argument %q", name)
		}
		if !given {
			if len(args) == 0 {
				return false, fmt.Errorf("%s needs a value", name)
			}
			value, args = args[0], args[1:]
		}
		switch name {
		case "--config":
			o.config = value
		case "--cni-path":
			o.path = value
		case "--linger":
			o.fixed = true
			if o.linger, err = time.ParseDuration(value); err != nil || o.linger < 0 {
				return false, fmt.Errorf("--linger %q is no duration, such as 30s", value)
			}
		}
	}
	return false, nil
}

func run(ctx context.Context, o *options, stdin io.Reader) error {
	raw, err := readConfig(o.config, stdin)
	if err != nil {
		return err
	}
	conf, err := config.ParsePlugin(raw)
	if err != nil {
		return err
	}
	lock, err := o.lock(ctx, lockKey+conf.SocketPath())
	if errors.Is(err, fsx.ErrLocked) {
		return nil // another runner does the work
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Release() }() // the process ends
	if err := plugin.Guard(plugin.RunnerCommand); err != nil {
		return err
	}
	log := plugin.Logger(conf, plugin.Thick())
	return newRunner(conf, raw, o, log).run(ctx)
}

// lock acquires the lock of the node's runner. A runner that never ends by itself is a service, and waits for the end
// of another one: its service manager would start it again and again.
func (o *options) lock(ctx context.Context, key string) (*fsx.Lock, error) {
	if o.linger == 0 {
		return fsx.Acquire(ctx, node.LockFile, key)
	}
	return fsx.TryAcquire(node.LockFile, key)
}

// readConfig returns the configuration that a runtime would pass to Multus.
func readConfig(from string, stdin io.Reader) ([]byte, error) {
	if from == "-" {
		b, err := io.ReadAll(io.LimitReader(stdin, maxConfig))
		if err != nil {
			return nil, fmt.Errorf("read the configuration from standard input: %w", err)
		}
		return withoutSandbox(b)
	}
	info, err := os.Stat(from)
	if err != nil {
		return nil, fmt.Errorf("read the CNI configuration: %w", err)
	}
	if !info.IsDir() {
		return readFile(filepath.Dir(from), filepath.Base(from))
	}
	entries, err := os.ReadDir(from) // sorted, as runtimes choose
	if err != nil {
		return nil, fmt.Errorf("read the CNI configuration: %w", err)
	}
	for _, e := range entries {
		if !cniconf.IsFileName(e.Name()) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if b, err := fsx.ReadRegular(from, e.Name(), maxConfig); err == nil && cniconf.CallsMultus(b) {
			return withoutSandbox(b)
		}
	}
	return nil, fmt.Errorf("no file in %s calls Multus; name one with --config", from)
}

func readFile(dir, name string) ([]byte, error) {
	b, err := fsx.ReadRegular(dir, name, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("read the CNI configuration: %w", err)
	}
	return withoutSandbox(b)
}

// withoutSandbox returns the configuration that a runtime would pass to Multus, without what it passes for one sandbox:
// the call that started the runner may have been the ADD of another pod, with the annotations of that pod.
func withoutSandbox(conf []byte) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(cniconf.PluginConfig(conf), &members); err != nil {
		return nil, fmt.Errorf("decode the CNI configuration: %w", err)
	}
	maps.DeleteFunc(members, func(key string, _ json.RawMessage) bool {
		return strings.EqualFold(key, "runtimeConfig") || strings.EqualFold(key, "prevResult")
	})
	return json.Marshal(members)
}

// runner is one run.
type runner struct {
	client *client.Client
	conn   plugin.RunnerConnection
	engine *engine.Engine
	conf   *config.Plugin
	raw    []byte
	path   string
	linger time.Duration
	fixed  bool // linger is that of the command line
	known  bool // the daemon has answered, so that linger is final
	log    *slog.Logger
}

func newRunner(conf *config.Plugin, raw []byte, o *options, log *slog.Logger) *runner {
	c := plugin.ConnectRunner(conf, log)
	return &runner{
		client: &client.Client{Socket: conf.SocketPath()}, conn: c, conf: conf, raw: raw, path: o.path, linger: o.linger,
		fixed: o.fixed, log: log,
		engine: engine.New(engine.Deps{
			Planner: c, Publisher: c, Status: c, Differ: c, LockFile: node.LockFile, Boot: node.Boot(), Log: log,
		}),
	}
}

// run works until ctx ends or there has been no work for linger. A pod that is being changed when ctx ends is finished
// or undone. Before the runner ends after work, it requests work once more: by a request without work the daemon knows
// that no runner works any more.
func (r *runner) run(ctx context.Context) error {
	final := false
	for last := time.Now(); ctx.Err() == nil; {
		work, err := r.next(ctx, time.Until(last.Add(r.linger)))
		if refused, ok := errors.AsType[*types.Error](err); ok {
			return refused // this daemon has no work for a runner
		}
		worked := err == nil && (len(work.Pods)+len(work.Delegate) > 0 || work.Observe)
		switch {
		case err != nil:
			pause(ctx, retryPause)
		case worked:
			if !r.do(ctx, work) {
				pause(ctx, retryPause) // the daemon has the same work at once
			}
			if len(work.Pods) > 0 {
				last = time.Now()
			}
			fallthrough
		default:
			r.setLinger(work.Linger)
		}
		over := r.linger > 0 && time.Since(last) >= r.linger
		if over && (final || !worked) {
			return nil
		}
		final = over
	}
	return nil
}

// next requests work, and waits for it at most for the time that is left. It does not wait before linger is final.
func (r *runner) next(ctx context.Context, left time.Duration) (*wirev1.Work, error) {
	wait := workWait
	switch {
	case !r.known && !r.fixed:
		wait = 0
	case r.linger > 0:
		wait = min(wait, max(left, 0))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, requestLimit, fmt.Errorf("no answer for %s", requestLimit))
	defer cancel()
	var work wirev1.Work
	err := r.client.Call(ctx, "GET", wirev1.PathWork+"?wait="+wait.String(), nil, &work)
	return &work, err
}

// setLinger uses the daemon's setting, unless the command line has one.
func (r *runner) setLinger(value string) {
	r.known = true
	if d, err := time.ParseDuration(value); err == nil && d > 0 && !r.fixed {
		r.linger = d
	}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// do does the work. It returns whether the daemon has all results.
func (r *runner) do(ctx context.Context, work *wirev1.Work) (reported bool) {
	for _, dir := range []string{work.StateDir, work.ResultsDir} {
		if dir != "" && !filepath.IsAbs(dir) {
			r.log.Error("work ignored: a directory is no absolute path", "dir", dir)
			return false
		}
	}
	store := &ledger.Store{
		Dir: cmp.Or(work.StateDir, r.conf.CNIDir), BinDir: r.conf.BinDir, Boot: node.Boot(), Log: r.log,
	}
	var delegating sync.WaitGroup
	delegated := false
	delegating.Go(func() { delegated = r.delegate(ctx, work, store) })
	changed := len(work.Pods) == 0 || r.change(ctx, work, store)
	delegating.Wait()
	if !delegated || !changed {
		return false
	}
	return !work.Observe || r.observe(ctx, work, store)
}

// change changes the networks of pods, some at the same time, so that a plugin that hangs does not delay all others. It
// reports each result at once, so that the pods of a runner that is killed are not done twice. It returns whether the
// daemon has all results.
func (r *runner) change(ctx context.Context, work *wirev1.Work, store *ledger.Store) (reported bool) {
	adopted := r.adopt(ctx, work)
	found, err := sandboxes(store, work.Pods)
	var lost atomic.Bool
	parallel(ctx, len(work.Pods), func(i int) { // what is not begun is handed out again
		pod := work.Pods[i]
		failure := errors.Join(err, adopted[pod])
		for _, record := range found[pod] {
			failure = errors.Join(failure, r.apply(ctx, record, work.StateDir))
		}
		failpoint.At("runner.applied")
		if !r.report(ctx, pod, failure) {
			lost.Store(true)
		}
	})
	return !lost.Load() && ctx.Err() == nil
}

// parallel calls do for the numbers below n, some at the same time. It begins with no more once ctx has ended.
func parallel(ctx context.Context, n int, do func(i int)) {
	todo := make(chan int)
	var all sync.WaitGroup
	for range min(workers, n) {
		all.Go(func() {
			for i := range todo {
				do(i)
			}
		})
	}
	for i := range n {
		if ctx.Err() == nil {
			todo <- i
		}
	}
	close(todo)
	all.Wait()
}

// adopt records the sandboxes that the runtime attached without calling Multus. It returns the errors by pod.
func (r *runner) adopt(ctx context.Context, work *wirev1.Work) map[wirev1.Pod]error {
	out := map[wirev1.Pod]error{}
	for _, a := range work.Adopt {
		_, err := r.engine.Adopt(ctx, &request.Request{
			Command: request.Update, ContainerID: a.ContainerID, IfName: ledger.DefaultIfName, Path: r.path, Config: r.raw,
		}, work.StateDir, work.ResultsDir)
		if err != nil {
			out[a.Pod] = fmt.Errorf("record the sandbox, which was attached without Multus: %w", err)
		}
	}
	return out
}

func (r *runner) apply(ctx context.Context, record *ledger.Record, stateDir string) error {
	return r.engine.Apply(ctx, r.request(record), stateDir)
}

// request returns the request of a change of a recorded sandbox.
func (r *runner) request(record *ledger.Record) *request.Request {
	first := &record.Attachments[0]
	return &request.Request{
		Command: request.Update, ContainerID: record.ContainerID, Netns: record.Netns, IfName: first.IfName,
		Args: first.Args, Path: r.path, Config: r.raw,
	}
}

// sandboxes returns the records of the sandboxes of pods. A pod may have several sandboxes, of which the runtime
// deletes all but one. The UID that the runtime passes for a static pod is not that of its mirror pod, so that the
// sandboxes of the pod's name count if none has its UID. The daemon refuses those of an earlier pod of the name.
func sandboxes(store *ledger.Store, pods []wirev1.Pod) (map[wirev1.Pod][]*ledger.Record, error) {
	ids, err := store.Containers()
	if err != nil {
		return nil, err
	}
	out, named := map[wirev1.Pod][]*ledger.Record{}, map[wirev1.Pod][]*ledger.Record{}
	for _, id := range ids {
		record, err := store.Read(id, ledger.DefaultIfName)
		if err != nil {
			return nil, err
		}
		if record == nil {
			continue
		}
		store.Complete(record) // with the namespace, which today's Multus does not record
		of := session.PodOf(record)
		for _, pod := range pods {
			switch {
			case of.Namespace != pod.Namespace || of.Name != pod.Name:
			case of.UID == pod.UID || of.UID == "" || pod.UID == "":
				out[pod] = append(out[pod], record)
			default:
				named[pod] = append(named[pod], record)
			}
		}
	}
	for _, pod := range pods {
		if len(out[pod]) == 0 {
			out[pod] = named[pod]
		}
	}
	return out, nil
}

// report sends the result of one pod to the daemon. It returns false if that fails. The daemon then hands the pod out
// again.
func (r *runner) report(ctx context.Context, pod wirev1.Pod, failure error) bool {
	result := wirev1.WorkResult{Pod: pod}
	if failure != nil {
		result.Error = failure.Error()
		r.log.Warn("networks of a running pod are not as requested", "pod", pod.Namespace+"/"+pod.Name, "err", failure)
	}
	return r.send(ctx, &wirev1.WorkDone{Results: []wirev1.WorkResult{result}})
}

func (r *runner) send(ctx context.Context, msg *wirev1.WorkDone) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retryPause)
	defer cancel()
	if err := r.client.Call(ctx, "POST", wirev1.PathWork, msg, nil); err != nil {
		r.log.Warn("a result is not reported; its work is handed out again", "err", err)
		return false
	}
	return true
}
