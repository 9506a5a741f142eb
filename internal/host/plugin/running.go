package plugin

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/config"
	"multus/internal/engine"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fault"
	wirev1 "multus/wire/v1"
)

// RunnerConnection is the runner's connection to the daemon.
type RunnerConnection interface {
	Connection
	engine.Differ
	// ForDelegate returns a Differ that decides about the one network of a DelegateJob.
	ForDelegate(id string) engine.Differ
}

// ConnectRunner returns the runner's connection to the daemon. It opens nothing yet.
func ConnectRunner(conf *config.Plugin, log *slog.Logger) RunnerConnection { return connect(conf, log) }

// RunnerCommand is the argument with which multus-shim is the runner and no plugin.
const RunnerCommand = "runner"

// diffLimit limits a comparison by the daemon, which itself ends after planserver.PlanLimit.
const diffLimit = 25 * time.Second

// Diff requests from the daemon what to change in a running sandbox, and checks its answer.
func (d *daemon) Diff(ctx context.Context, req *request.Request, _ *config.Plugin, has []plan.Attached) (*plan.Changes,
	error,
) {
	return d.diff(ctx, req, has, "")
}

// delegateDiffer is a Differ for one DelegateJob.
type delegateDiffer struct {
	*daemon
	id string
}

// ForDelegate returns a Differ that decides about the one network of a DelegateJob.
func (d *daemon) ForDelegate(id string) engine.Differ { return delegateDiffer{d, id} }

// Diff requests the addition of the network, if the sandbox does not have it.
func (d delegateDiffer) Diff(ctx context.Context, req *request.Request, _ *config.Plugin, has []plan.Attached) (
	*plan.Changes, error,
) {
	return d.diff(ctx, req, has, d.id)
}

func (d *daemon) diff(ctx context.Context, req *request.Request, has []plan.Attached, delegate string) (*plan.Changes,
	error,
) {
	ctx, cancel := context.WithTimeoutCause(ctx, diffLimit, fmt.Errorf("no answer for %s", diffLimit))
	defer cancel()
	var answer wirev1.Changes
	msg := &wirev1.DiffRequest{Request: wirev1.FromRequest(req), Attached: wirev1.FromAttached(has), Delegate: delegate}
	if err := d.client.Call(ctx, "POST", wirev1.PathDiff, msg, &answer); err != nil {
		return nil, tryAgain(err, req)
	}
	changes, err := answer.ToChanges()
	if err == nil {
		err = changes.Validate(has)
	}
	if err != nil {
		return nil, fault.PlanUnusable.Wrap(err, req.Pod())
	}
	return changes, nil
}

// startRunner starts a runner, because the daemon has work and none does it. The runner is this program in a session of
// its own. It outlives the plugin and the container runtime, and keeps none of their files open. It gets the
// configuration as its standard input, and CNI_PATH in the environment. A second runner ends at once.
func startRunner(conf []byte, path string, log *slog.Logger) {
	failpoint.At("runner.start")
	if err := spawnRunner(conf, path); err != nil {
		log.Error("cannot start a runner: the networks of running pods are not changed", "err", err)
	}
}

func spawnRunner(conf []byte, path string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program of the runner: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	fd, err := unix.MemfdCreate("multus-runner-config", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	stdin := os.NewFile(uintptr(fd), "configuration")
	defer stdin.Close()
	if _, err := stdin.Write(conf); err != nil {
		return err
	}
	if _, err := stdin.Seek(0, 0); err != nil {
		return err
	}
	p, err := os.StartProcess(self, []string{self, RunnerCommand, "--config", "-"}, &os.ProcAttr{
		Dir: "/", Env: []string{"CNI_PATH=" + path, "PATH=" + os.Getenv("PATH")}, Files: []*os.File{stdin, null, null},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	return p.Release()
}
