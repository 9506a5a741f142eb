package faults

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/fsx"
	hostnode "multus/internal/node"
	"multus/internal/testutil/node"
)

const (
	// window bounds the time between the start of a plugin and its kill.
	window = 90 * time.Millisecond
	// shares is the number of tests that divide duration among them. Each runs both deployments at the same time.
	shares = 4
)

func share() time.Time { return time.Now().Add(duration() / shares) }

// inWindow starts try number n and returns at a random moment of it. Every third try is a DEL.
func (s *site) inWindow(t *testing.T, n int) (verb string, after time.Duration, p *process) {
	t.Helper()
	verb = "ADD"
	if n%3 == 2 {
		s.attach(t)
		verb = "DEL"
	}
	after = rand.N(window)
	p = s.start(t, s.pod, verb)
	time.Sleep(after)
	return verb, after, p
}

// TestRandomKill kills the plugin at a random time within 90 ms of its start, in ADD and in DEL, while its delegates
// keep running. Then it runs DEL, ADD and DEL. The same test with today's Multus leaked 20 addresses in 43 kills.
func TestRandomKill(t *testing.T) {
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newSite(t, kind, two, nil)
		s.slow(t, "0.0$((RANDOM % 10))")
		r := table.row(fmt.Sprintf("plugin killed at random, %s", kind))
		for n, end := 0, share(); time.Now().Before(end); n++ {
			verb, after, p := s.inWindow(t, n)
			_ = p.Process.Kill()
			_ = p.end()
			s.recover(t, r, n%2 == 1, fmt.Sprintf("%s killed after %s", verb, after))
		}
	})
}

// slow delays each ADD of the bridge plugin, as on a busy node.
func (s *site) slow(t *testing.T, seconds string) {
	t.Helper()
	text := fmt.Sprintf("#!/bin/bash\n[ \"$CNI_COMMAND\" = ADD ] && sleep %s\nexec %q\n", seconds,
		filepath.Join(s.BinDirs[1], "bridge"))
	check(t, os.WriteFile(filepath.Join(s.Dir, "plugins", "slow"), []byte(text), 0o755))
	files, err := filepath.Glob(filepath.Join(s.networks, "*.json"))
	check(t, err)
	s.overwrite(t, append(files, s.conf["clusterNetwork"].(string)), func(b []byte) []byte {
		b = bytes.ReplaceAll(b, []byte(`"type":"bridge"`), []byte(`"type":"slow"`))
		return bytes.ReplaceAll(b, []byte(`\"type\":\"bridge\"`), []byte(`\"type\":\"slow\"`))
	})
}

// TestDelWaits checks that DEL waits for the delegate of a killed ADD, even if the delegate has not begun its work.
func TestDelWaits(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newSite(t, kind, two, nil)
		s.slow(t, "0.3")
		r := table.row("DEL waits for delegates of a killed ADD")
		for _, pass := range []int{1, 3, 4} { // the bridge plugins: portmap and tuning are between them
			what := fmt.Sprintf("exec.started:%d", pass)
			if err := s.call(t, "ADD", "MULTUS_FAILPOINT="+what); !errors.Is(err, errKilled) {
				t.Errorf("%s: %v", what, err)
			}
			if l, err := fsx.TryAcquire(hostnode.LockFile, s.pod.ContainerID); err == nil {
				t.Errorf("%s: the delegate does not hold the lock", what)
				check(t, l.Close())
			}
			s.recover(t, r, false, what)
		}
	})
}

// TestRandomDelegateKill kills one of the delegates instead. The error names the delegate, and what was begun is undone
// at once.
func TestRandomDelegateKill(t *testing.T) {
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newSite(t, kind, two, nil)
		r := table.row(fmt.Sprintf("delegate killed at random, %s", kind))
		hits := 0
		for n, end := 0, share(); time.Now().Before(end); n++ {
			verb, after, p := s.inWindow(t, n)
			hit := killChild(p.Process.Pid)
			err := p.end()
			what := fmt.Sprintf("delegate of %s killed after %s: %v", verb, after, err)
			if hit && err != nil {
				hits++
				if !strings.Contains(err.Error(), "killed") || !strings.Contains(err.Error(), "network") {
					t.Errorf("%s: the error does not name the network and the signal", what)
				}
				if left := interfaces(t, s.pod.NS); verb == "ADD" && len(left) > 0 {
					r.bad(t, &r.interfaces, len(left), "%s: not undone: %v", what, left)
				}
			}
			if err == nil && verb == "ADD" {
				s.prev = bytes.Clone(p.stdout.Bytes())
			}
			s.recover(t, r, n%2 == 1, what)
		}
		t.Logf("%d delegates killed", hits)
	})
}

// killChild kills a child of a process. It returns false if the process has no child.
func killChild(pid int) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false
	}
	for _, task := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		for field := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(field); err == nil && syscall.Kill(child, syscall.SIGKILL) == nil {
				return true
			}
		}
	}
	return false
}

// TestRandomDaemon kills, restarts, stops and continues the daemon at random times while pods are attached and deleted.
// An ADD succeeds or fails with code 11. Nothing is left, and the last network status is right.
func TestRandomDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, two, map[string]any{"daemonTimeout": "5s"})
	r := table.row("daemon killed and stopped at random")
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(rand.N(300 * time.Millisecond)):
			}
			if rand.IntN(2) == 0 {
				s.StopDaemon(t)
				time.Sleep(rand.N(200 * time.Millisecond))
				s.StartDaemon(t)
				continue
			}
			s.Signal(t, syscall.SIGSTOP)
			time.Sleep(rand.N(300 * time.Millisecond))
			s.Signal(t, syscall.SIGCONT)
		}
	})
	defer wg.Wait()
	defer close(done)
	for n, end := 0, share(); time.Now().Before(end); n++ {
		r.try()
		err := s.call(t, "ADD")
		var ce *types.Error
		switch {
		case err == nil:
			s.checkStatus(t, r, "ADD")
		case !errors.As(err, &ce) || ce.Code != types.ErrTryAgainLater:
			r.bad(t, &r.stuck, 1, "ADD: %v", err)
		}
		s.del(t, r, "DEL")
		s.clean(t, r, "DEL")
	}
}
