// demo attaches three networks to a pod and detaches them again. The daemon, the plugin and the reference CNI plugins
// are the real ones. This program acts as the container runtime, the node and the pod. It needs root and Linux, but no
// cluster and no container.
//
// The node is a process with its own namespaces for the network, for mounts and for processes, and with a root file
// system in memory. So /etc/cni, /run/multus and /var/lib/cni are at the same paths as on a real node, and examples/ is
// used unchanged. When the process ends, for whatever reason, the kernel removes everything. Nothing is ever written to
// the machine.
//
// The parent (this file) checks the requirements, starts that process, and passes signals on. The rest of the package
// runs in the child.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// nodeArg is the first argument of the child.
const nodeArg = "@node"

const (
	// exitInterrupted is the exit code that shells use for SIGINT.
	exitInterrupted = 130
	// signalAgain is the interval of signals to the child. A signal is lost if it arrives before the child handles it.
	signalAgain = 200 * time.Millisecond
	// onePress is how long several signals count as one. Ctrl-C may be sent by the terminal and also by make or timeout.
	onePress = time.Second
	// endLimit bounds the cleanup of the child. After that the child is killed, which also cleans up, but without a
	// report.
	endLimit = 60 * time.Second
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == nodeArg {
		os.Exit(runNode(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options are the options of the command line, for parent and child.
type options struct {
	keep     bool
	bin      string
	examples string
}

// parse parses the command line and prints errors.
func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	bin := "bin"
	if exe, err := os.Executable(); err == nil {
		bin = filepath.Dir(exe)
	}
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&o.keep, "keep", false, "keep the pod attached until Ctrl-C, and print how to inspect the node")
	f.StringVar(&o.bin, "bin", bin, "`directory` of multus-daemon and multus-shim; the reference plugins are in its cni/")
	f.StringVar(&o.examples, "examples", "", "`directory` of the examples (default: beside the directory of the binaries)")
	f.Usage = func() {
		fmt.Fprint(stderr, "Usage: demo [options]\n\nAttaches three networks to a pod on a temporary node, shows them, "+
			"and detaches them.\n"+
			"Needs root. Leaves nothing behind, even if it is killed.\n\n")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q", f.Arg(0))
		fmt.Fprintln(stderr, err)
		return nil, err
	}
	if o.examples == "" {
		o.examples = filepath.Join(o.bin, "..", "examples")
	}
	return o, nil
}

// run is the parent.
func run(args []string, stdout, stderr *os.File) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if missing := missingOnHost(o); len(missing) > 0 {
		complain(stderr, missing)
		return 1
	}
	start := time.Now()
	code, err := startNode(args, stdout, stderr)
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "error:", err)
		return 1
	case code == exitInterrupted:
		fmt.Fprintln(stderr, "interrupted; the node was removed with all its contents")
	case code == 0:
		progress{out: stdout}.line("the node was removed with all its contents; total time", time.Since(start))
		fmt.Fprintln(stdout, "\nOK")
	}
	return code
}

// complain prints what prevents the demo from running, one reason a line.
func complain(stderr io.Writer, missing []string) {
	fmt.Fprintf(stderr, "error: the demo cannot run here: %s\n", strings.Join(missing, "\n  and: "))
}

// startNode starts the child in its namespaces and returns its exit code.
func startNode(args []string, stdout, stderr *os.File) (int, error) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	// Pdeathsig depends on the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command("/proc/self/exe", append([]string{nodeArg}, args...)...)
	cmd.Args[0] = "demo"
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		// Ctrl-C reaches only the parent, which passes it to the child. Daemon and plugin do not receive it.
		Setpgid: true,
		// The child is the first process of its PID namespace. When it dies, all processes in it die.
		Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start a process in its own namespaces: %w", err)
	}
	ended := make(chan struct{})
	interrupted := make(chan bool)
	go func() { interrupted <- passOn(signals, cmd.Process, ended) }()
	err := cmd.Wait()
	close(ended)
	killed := <-interrupted
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Exited() {
		return ee.ExitCode(), nil
	}
	if err != nil && killed {
		return exitInterrupted, nil
	}
	if err != nil {
		return 1, fmt.Errorf("the node ended without an exit code: %w", err)
	}
	return 0, nil
}

// passOn ends the child at the first signal. It kills the child at the second signal, or if the end takes too long. It
// reports whether there was a signal.
func passOn(signals <-chan os.Signal, child *os.Process, ended <-chan struct{}) bool {
	select {
	case <-ended:
		return false
	case <-signals:
	}
	first := time.Now()
	again := time.NewTicker(signalAgain)
	defer again.Stop()
	limit := time.After(endLimit)
	for {
		_ = child.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-ended:
			return true
		case <-again.C:
		case <-signals:
			if time.Since(first) > onePress {
				_ = child.Kill()
			}
		case <-limit:
			_ = child.Kill()
		}
	}
}
