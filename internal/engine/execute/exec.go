package execute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"multus/internal/cniresult"
	"multus/internal/failpoint"
	"multus/internal/fault"
)

const (
	// busyRetries and busyPause bound the wait for a plugin binary that is being replaced.
	busyRetries = 50
	busyPause   = 100 * time.Millisecond
	// maxStderr is how much of a delegate's standard error is kept.
	maxStderr = 4 << 10
	// maxStdout is how much of a delegate's standard output is kept.
	maxStdout = 8 << 20
)

// DepthEnv is set in the environment of every delegate. A process that has it was started by Multus (multus-cni#1130).
const DepthEnv = "MULTUS_DEPTH"

// errKilled is wrapped by the error of a delegate that did not end by itself.
var errKilled = errors.New("was killed")

// errTimeout and errCancelled are wrapped by the error of a delegate that was still running when the time of the
// request was over, or when the runtime gave up.
var (
	errTimeout   = fmt.Errorf("%w", errKilled)
	errCancelled = fmt.Errorf("%w", errKilled)
)

// KilledBy returns why a delegate with this error was killed: timeout when its time was over, cancelled when the
// runtime gave up, and signal when another program or the kernel killed it. It returns "" if no delegate was killed.
func KilledBy(err error) string {
	switch {
	case errors.Is(err, errTimeout):
		return "timeout"
	case errors.Is(err, errCancelled):
		return "cancelled"
	case errors.Is(err, errKilled):
		return "signal"
	}
	return ""
}

// Exec runs delegates. Each one has a process group of its own, which is killed when the request ends. Each one holds
// the sandbox's lock, so that a later DEL waits for it even if this process was killed.
type Exec struct {
	// Lock is passed to delegates. It may be nil.
	Lock *os.File
	version.PluginDecoder
	// Stderr receives the standard error of successful delegates. If it is nil, that output is discarded.
	Stderr io.Writer
	// Prestart permits delegates to be started before their turn; see startAhead.
	Prestart bool
	// started is set once a delegate was executed.
	started bool
	// following has the delegates that run after the one that is executed next. paths are the directories in which they
	// are searched.
	following []delegate
	paths     []string
	ahead     *ahead
	// busy reports whether the node is too busy to start a delegate ahead, which waits at most aheadLimit for its input.
	busy       func() bool
	aheadLimit time.Duration
	// del, if set, collects the results of DEL of one list.
	del *deletion
}

var _ invoke.Exec = (*Exec)(nil)

// errMissing is wrapped by the error for a plugin whose binary does not exist.
var errMissing = errors.New("plugin is not installed")

// missingError has the text of libcni, which users search for.
type missingError struct{ err error }

func (e *missingError) Error() string   { return e.err.Error() }
func (e *missingError) Unwrap() []error { return []error{errMissing, e.err} }

// FindInPath returns the path of a plugin's binary (behaviour K1). Its error names the directories.
func (e *Exec) FindInPath(plugin string, paths []string) (string, error) {
	path, err := invoke.FindInPath(plugin, paths)
	if err != nil {
		return "", &missingError{err}
	}
	return path, nil
}

// ExecPlugin runs a delegate once. If the binary is being written, it tries again with a new process (behaviour F63).
// Empty output of a successful ADD stands for an empty result, or for the previous result of the chain
// (multus-cni#714).
func (e *Exec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	if e.del != nil {
		return e.del.add(path, func() ([]byte, error) { return e.retry(ctx, path, stdin, environ) })
	}
	return e.retry(ctx, path, stdin, environ)
}

func (e *Exec) retry(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	for try := 0; ; try++ {
		out, err := e.once(ctx, path, stdin, environ)
		if !errors.Is(err, syscall.ETXTBSY) || try == busyRetries {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("plugin %s is being replaced: %w", path, ctx.Err())
		case <-time.After(busyPause):
		}
	}
}

func (e *Exec) once(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	stdout, stderr := &bounded{limit: maxStdout}, &bounded{limit: maxStderr}
	failpoint.At("exec.before")
	err := e.run(ctx, path, stdin, environ, stdout, stderr)
	if errors.Is(err, syscall.ETXTBSY) {
		return nil, err
	}
	e.started = true
	failpoint.At("exec.after")
	if err != nil {
		return nil, pluginError(ctx, path, err, stdout.Bytes(), stderr.Bytes())
	}
	if stderr.Len() > 0 && e.Stderr != nil {
		_, _ = e.Stderr.Write(stderr.Bytes()) // informational, as in today's Multus: the runtime logs it
	}
	if len(bytes.TrimSpace(stdout.Bytes())) == 0 {
		return emptyResult(stdin), nil
	}
	if err := cniresult.CheckNulls(stdout.Bytes()); errors.Is(err, cniresult.ErrNull) {
		return nil, fmt.Errorf("plugin %s gave a result that cannot be used: %w", filepath.Base(path), err)
	}
	return stdout.Bytes(), nil
}

// run runs a delegate, which may have been started ahead. While it works, the next one is started ahead.
func (e *Exec) run(ctx context.Context, path string, stdin []byte, environ []string, stdout, stderr *bounded) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p := e.takeAhead(path, environ)
	if p == nil {
		p = newProcess()
		p.input = stdin
		if err := p.start(path, environ, e.Lock); err != nil {
			p.close()
			return err
		}
	} else {
		p.input, p.withheld = stdin, false
		p.feed()
		failpoint.At("exec.fed")
	}
	e.next(environ)
	return p.finish(ctx, stdout, stderr)
}

// next starts the next delegate ahead. environ is the environment of the one that works.
func (e *Exec) next(environ []string) {
	if !e.Prestart || len(e.following) == 0 {
		return
	}
	d := e.following[0]
	e.following = e.following[1:]
	if d.environ != nil {
		environ = d.environ
	}
	e.startAhead(d.plugin, environ)
}

// emptyResult returns the result of a plugin without output: the previous result of the chain, else an empty result.
func emptyResult(stdin []byte) []byte {
	var conf struct {
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := json.Unmarshal(stdin, &conf); err == nil && len(conf.PrevResult) > 0 && string(conf.PrevResult) != "null" {
		return conf.PrevResult
	}
	return []byte("{}")
}

// pluginError returns the error that a failed delegate printed, or an error that describes how it ended (behaviour
// F64, M28; multus-cni#1107).
func pluginError(ctx context.Context, path string, err error, stdout, stderr []byte) error {
	name := filepath.Base(path)
	if end := ctx.Err(); end != nil {
		why := errCancelled
		if errors.Is(end, context.DeadlineExceeded) {
			why = errTimeout
		}
		return fmt.Errorf("plugin %s did not end in time and %w: %w", name, why, context.Cause(ctx))
	}
	printed := &types.Error{}
	switch {
	case len(stdout) > 0 && json.Unmarshal(stdout, printed) == nil && (printed.Msg != "" || printed.Code != 0):
		return printed
	case len(stdout) > 0:
		return asAnswer(stdout, fmt.Errorf("netplugin failed but error parsing its diagnostic message %q (%s: %w)",
			clip(stdout), name, err))
	case len(stderr) > 0:
		return asAnswer(stderr, fmt.Errorf("netplugin failed: %q (%s: %w)", clip(stderr), name, err))
	}
	if exit, ok := errors.AsType[*exitError](err); ok && exit.status.Signaled() &&
		exit.status.Signal() == syscall.SIGKILL {
		return fmt.Errorf("netplugin failed with no error message: %s: %w (it %w; the kernel does that when the memory of "+
			"its cgroup is used up)", name, err, errKilled)
	}
	return fmt.Errorf("netplugin failed with no error message: %s: %w", name, err)
}

// exitError describes how a process ended, in the words of os/exec.
type exitError struct{ status syscall.WaitStatus }

func (e *exitError) Error() string {
	switch {
	case e.status.CoreDump():
		return "signal: " + e.status.Signal().String() + " (core dumped)"
	case e.status.Signaled():
		return "signal: " + e.status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", e.status.ExitStatus())
}

// textError is the failure of a plugin that gave its reason as plain text. The specification requires JSON (CNI SPEC
// 1.1, "Error"), but scripts and old plugins write to standard error.
type textError struct {
	text string
	err  error
}

func (e *textError) Error() string { return e.err.Error() }
func (e *textError) Unwrap() error { return e.err }

// asAnswer returns a textError, unless the plugin was ended by a signal or is a Go program that crashed.
func asAnswer(printed []byte, err error) error {
	exit, ok := errors.AsType[*exitError](err)
	crashed := bytes.HasPrefix(printed, []byte("panic: ")) || bytes.HasPrefix(printed, []byte("fatal error: ")) ||
		bytes.Contains(printed, []byte("\ngoroutine "))
	if !ok || exit.status.Signaled() || crashed || len(bytes.TrimSpace(printed)) == 0 {
		return err
	}
	return &textError{text: string(printed), err: err}
}

// maxPrinted is how much of a plugin's output an error contains.
const maxPrinted = 512

func clip(b []byte) string { return fault.Clip(string(b), maxPrinted) }

// bounded keeps the first bytes of a stream and discards the rest, so that the writer never blocks.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.limit - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
