package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Files of examples/ that the demo itself uses. The daemon reads the others.
const (
	clusterFile = "node/10-cluster.conflist"
	daemonFile  = "node/daemon-config.json"
	podFile     = "pod.yaml"
)

// Paths on the node: those of examples/node/daemon-config.json, and the defaults of runtime and plugins.
const (
	confDir      = "/etc/cni/net.d"
	daemonConf   = "/etc/cni/net.d/multus.d/daemon-config.json"
	networksDir  = "/etc/cni/net.d/multus.d/networks"
	multusConf   = "/etc/cni/net.d/00-multus.conf"
	socket       = "/run/multus/multus.sock"
	statusDir    = "/run/multus/status"
	binDir       = "/opt/cni/bin"
	runtimeCache = "/var/lib/cni"
	reserved     = "/var/lib/cni/networks"
	ledgerDir    = "/var/lib/cni/multus"
	daemonLog    = "/var/log/multus-daemon.log"
)

const (
	// daemonLimit bounds the start and the end of the daemon.
	daemonLimit = 15 * time.Second
	poll        = 10 * time.Millisecond
)

var errInterrupted = errors.New("interrupted")

// runNode is the child: the node and everything that runs on it.
func runNode(args []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		cancel(errInterrupted)
	}()
	o, err := parse(args, stderr)
	if err != nil {
		return 2 // the parent has printed the error
	}
	pid, err := setUpRoot(o)
	if err != nil {
		fmt.Fprintln(stderr, "error: set up the file system of the node:", err)
		return 1
	}
	missing, err := missingInKernel()
	if len(missing) > 0 {
		complain(stderr, missing)
		return 1
	}
	if err == nil {
		err = (&demo{progress: progress{stdout}, options: o, pid: pid}).run(ctx)
	}
	switch {
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(stderr, "error:", oneLine(err))
		return 1
	}
	return 0
}

// oneLine joins the lines of several errors.
func oneLine(err error) string { return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ") }

// setUpRoot creates a root file system in memory with what is installed on a node, and makes it the root of the
// process.
// The mounts are in the process's own mount namespace, so they are invisible elsewhere and end with the process. It
// returns the PID of the process outside of the node.
func setUpRoot(o *options) (pid int, err error) {
	// /proc is still that of the machine.
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return 0, err
	}
	if pid, err = strconv.Atoi(self); err != nil {
		return 0, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("make mounts private: %w", err)
	}
	// Open everything before the new root is mounted, which may hide it.
	files, err := open(o)
	if err != nil {
		return 0, err
	}
	defer files.close()
	root := os.TempDir()
	if err := unix.Mount("demo", root, "tmpfs", 0, "mode=755"); err != nil {
		return 0, fmt.Errorf("mount a file system in memory on %s: %w", root, err)
	}
	for _, dir := range []string{"proc", "dev", "tmp", "run", "usr/bin", "var/log", binDir, networksDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return 0, err
		}
	}
	if err := files.install(root); err != nil {
		return 0, err
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return 0, fmt.Errorf("mount /proc of the node: %w", err)
	}
	if err := unix.Chroot(root); err != nil {
		return 0, fmt.Errorf("change to the node's root: %w", err)
	}
	// Nothing else of the environment, such as CNI_ARGS or proxies, belongs to a node.
	return pid, errors.Join(os.Chdir("/"), os.Setenv("TMPDIR", "/tmp"), os.Setenv("PATH", "/usr/bin"))
}

// source is what the node takes from the machine.
type source struct {
	binaries map[string]*os.File // by path on the node
	examples *os.Root
}

func open(o *options) (*source, error) {
	s := &source{binaries: map[string]*os.File{}}
	for path, file := range binaries {
		f, err := os.OpenFile(filepath.Join(o.bin, file), unix.O_PATH, 0)
		if err != nil {
			s.close()
			return nil, err
		}
		s.binaries[path] = f
	}
	f, err := os.OpenFile("/dev/null", unix.O_PATH, 0)
	if err != nil {
		s.close()
		return nil, err
	}
	s.binaries["/dev/null"] = f
	if s.examples, err = os.OpenRoot(o.examples); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *source) close() {
	for _, f := range s.binaries {
		f.Close()
	}
	if s.examples != nil {
		s.examples.Close()
	}
}

// install bind-mounts the binaries and copies the examples to their paths.
func (s *source) install(root string) error {
	for path, f := range s.binaries {
		target := filepath.Join(root, path)
		if err := os.WriteFile(target, nil, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("install %s: %w", path, err)
		}
	}
	if err := s.copy(clusterFile, filepath.Join(root, confDir)); err != nil {
		return err
	}
	if err := s.copy(daemonFile, filepath.Join(root, filepath.Dir(daemonConf))); err != nil {
		return err
	}
	dir, err := s.examples.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if filepath.Ext(name) != ".yaml" {
			continue
		}
		if err := s.copy(name, filepath.Join(root, networksDir)); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) copy(name, dir string) error {
	b, err := s.examples.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o644)
}

// daemon is the running multus-daemon.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // valid after ended is closed
}

// startDaemon starts multus-daemon and waits until it has written the CNI configuration file and listens.
func startDaemon(ctx context.Context) (*daemon, error) {
	log, err := os.Create(daemonLog)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &daemon{
		cmd:   exec.Command("/usr/bin/multus-daemon", "run", "--config", daemonConf, "--node-name", "demo"),
		ended: make(chan struct{}),
	}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start multus-daemon: %w", err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	limit := time.After(daemonLimit)
	for !exists(multusConf) || !exists(socket) {
		select {
		case <-time.After(poll):
			continue
		case <-d.ended:
			err = fmt.Errorf("multus-daemon ended at once (%w): %s", d.err, lastLogLine())
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-limit:
			err = fmt.Errorf("multus-daemon did not create %s within %s: %s", multusConf, daemonLimit, lastLogLine())
		}
		return nil, errors.Join(err, d.kill())
	}
	return d, nil
}

// stop ends the daemon as an init system does.
func (d *daemon) stop() error {
	select {
	case <-d.ended:
		return fmt.Errorf("multus-daemon ended too early (%w): %s", d.err, lastLogLine())
	default:
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("end multus-daemon: %w", err)
	}
	select {
	case <-d.ended:
	case <-time.After(daemonLimit):
		return errors.Join(fmt.Errorf("multus-daemon did not end within %s after SIGTERM", daemonLimit), d.kill())
	}
	if d.err != nil {
		return fmt.Errorf("multus-daemon failed (%w): %s", d.err, lastLogLine())
	}
	return nil
}

func (d *daemon) kill() error {
	err := d.cmd.Process.Kill()
	<-d.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lastLogLine returns the last line that the daemon logged, for error messages.
func lastLogLine() string {
	b, err := os.ReadFile(daemonLog)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
