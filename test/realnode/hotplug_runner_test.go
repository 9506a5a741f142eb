package realnode

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/unit"
)

// runnerSurvives restarts containerd while a runner runs, which containerd has started. The runner goes on, and changes
// the networks of pods afterwards.
func (w *plugWatch) runnerSurvives(t *testing.T) {
	w.setLinger(t, "10m") // longer than this takes
	pod := w.running(t, "plug", 1)[0]
	w.change(t, "net-a,net-b", bothNetworks, pod)
	runner := w.oneRunner(t)
	if a, b := cgroup(t, runner), w.containerdCgroup(t); a != b {
		t.Errorf("the runner is in the control group %s, containerd is in %s", a, b)
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := w.Restart(t.Context(), "containerd", signal); err != nil {
			t.Fatal(err)
		}
		took := w.change(t, "", noNetworks, pod)
		took = append(took, w.change(t, "net-a,net-b", bothNetworks, pod)...)
		if again := w.oneRunner(t); again != runner {
			t.Errorf("%s: the runner was %d, is %d", signal, runner, again)
		}
		report(t, "after containerd was "+signal.String(), took)
	}
	w.has(t, bothNetworks, pod)
	w.endRunner(t, runner)
	w.running(t, "plug", 0)
	w.untilHeld(t, 0)
}

// oneRunner returns the only runner of the node.
func (n *node) oneRunner(t *testing.T) int {
	t.Helper()
	var pids []int
	wait(t, "one runner", func() error {
		if pids = n.runners(t); len(pids) != 1 {
			return fmt.Errorf("runners %d", pids)
		}
		return nil
	})
	return pids[0]
}

// endRunner ends a runner as a service manager does.
func (n *node) endRunner(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wait(t, "the end of the runner", func() error {
		if running := n.runners(t); slices.Contains(running, pid) {
			return fmt.Errorf("runners %d", running)
		}
		return nil
	})
}

func cgroup(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (w *plugWatch) containerdCgroup(t *testing.T) string {
	t.Helper()
	server, err := w.Commands("containerd")
	if err != nil || len(server) != 1 {
		t.Fatalf("processes of containerd: %d, %v", server, err)
	}
	return cgroup(t, server[0])
}

// statusCalls measures how often the runtime calls STATUS while nothing happens. Each call opens the plugin's file.
func (w *plugWatch) statusCalls(t *testing.T) {
	const calls = 7
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, w.Path(w.paths.Bin+"/multus-shim"), unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	next := func() time.Time {
		var at time.Time
		wait(t, "a call of the plugin", func() error {
			buf := make([]byte, unix.SizeofInotifyEvent)
			_, err := unix.Read(fd, buf)
			at = time.Now()
			return err
		})
		return at
	}
	last := next()
	var pauses []time.Duration
	for range calls {
		now := next()
		pauses = append(pauses, now.Sub(last).Round(10*time.Millisecond))
		last = now
	}
	slices.Sort(pauses) // the runtime may repeat the DEL of a pod meanwhile
	text := fmt.Sprintf("STATUS every %s (median of %d: %s)", pauses[calls/2], calls, pauses)
	t.Log(text)
	t.Attr("note", text)
}

// service runs the command of deploy/systemd/multus-runner.service in place of systemd. It works without the runtime's
// STATUS, goes on when the daemon is replaced, and ends with SIGTERM. A second one waits for that, and then does the
// work.
func (w *plugWatch) service(t *testing.T) {
	ended := w.startService(t)
	runner := w.oneRunner(t)
	pod := w.running(t, "plug", 1)[0]
	took := w.change(t, "net-a,net-b", bothNetworks, pod)
	w.rollDaemon(t)
	took = append(took, w.change(t, "", noNetworks, pod)...)
	if again := w.oneRunner(t); again != runner {
		t.Errorf("the runner was %d, is %d", runner, again)
	}
	next := w.startService(t)
	wait(t, "two runners", func() error {
		if running := w.runners(t); len(running) != 2 {
			return fmt.Errorf("runners %d", running)
		}
		return nil
	})
	w.endRunner(t, runner)
	if err := eventually.Receive(t, "the end of the command", ended); err != nil {
		t.Error(err)
	}
	took = append(took, w.change(t, "net-a,net-b", bothNetworks, pod)...)
	took = append(took, w.change(t, "", noNetworks, pod)...)
	report(t, "with the service", took)
	w.has(t, noNetworks, pod)
	w.endRunner(t, w.oneRunner(t))
	if err := eventually.Receive(t, "the end of the second command", next); err != nil {
		t.Error(err)
	}
	w.running(t, "plug", 0)
	w.untilHeld(t, 0)
}

// startService runs the command of the unit until it ends.
func (w *plugWatch) startService(t *testing.T) <-chan error {
	t.Helper()
	settings, err := unit.Runner()
	if err != nil {
		t.Fatal(err)
	}
	command := strings.Fields(settings["Service.ExecStart"])
	ended := make(chan error, 1)
	go func() {
		_, err := w.Run(t.Context(), command[0], command[1:]...)
		ended <- err
	}()
	return ended
}

// executor adds deploy/components/executor. Its pod runs the runner, which ends with the pod.
func (w *plugWatch) executor(t *testing.T) {
	if err := w.Kustomize(t.Context(), w.baseWith(t, "hotplug", "runtime-annotations", "executor")); err != nil {
		t.Fatal(err)
	}
	until(t, "executor Ready", func() error { return w.daemonSetReady(t, "kube-system", "multus-executor") })
	runner := w.oneRunner(t)
	if namespace(t, runner, "mnt") != namespace(t, w.Pid(), "mnt") || cgroup(t, runner) == w.containerdCgroup(t) {
		t.Errorf("the runner is not in the node's mount namespace, or not in a container: %s", cgroup(t, runner))
	}
	pod := w.running(t, "plug", 1)[0]
	took := w.change(t, "net-a,net-b", bothNetworks, pod)
	w.has(t, bothNetworks, pod)
	took = append(took, w.change(t, "", noNetworks, pod)...)
	if again := w.oneRunner(t); again != runner {
		t.Errorf("the runner was %d, is %d", runner, again)
	}
	report(t, "with the executor", took)
	err := w.Client.AppsV1().DaemonSets("kube-system").Delete(t.Context(), "multus-executor", metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the end of the runner", func() error {
		if running := w.runners(t); len(running) > 0 {
			return fmt.Errorf("runners %d", running)
		}
		return nil
	})
	w.running(t, "plug", 0)
	w.untilHeld(t, 0)
}

func namespace(t *testing.T, pid int, name string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return link
}
