package fsx

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"multus/internal/testutil/leak"
)

const (
	// roleVar makes a copy of this test binary act as a plugin or a delegate. fileVar is the lock file.
	roleVar = "FSX_TEST_ROLE"
	fileVar = "FSX_TEST_FILE"
	// noRaceSleep saves the second that a binary built with -race waits before it exits.
	noRaceSleep = "GORACE=atexit_sleep_ms=0"
	// limit ends a test that would otherwise hang.
	limit = 20 * time.Second
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "plugin":
		fail(plugin())
	case "delegate":
		_, err := io.Copy(io.Discard, os.Stdin) // runs until the test closes the pipe
		fail(err)
	default:
		leak.Main(m)
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// plugin takes the lock, passes it to a delegate and waits for the delegate.
func plugin() error {
	lock, err := TryAcquire(os.Getenv(fileVar), "container")
	if err != nil {
		return err
	}
	delegate := exec.Command(os.Args[0])
	delegate.Env = append(os.Environ(), roleVar+"=delegate", noRaceSleep)
	delegate.Stdin = os.Stdin
	delegate.ExtraFiles = []*os.File{lock.File()}
	if err := delegate.Start(); err != nil {
		return err
	}
	fmt.Println("started")
	return delegate.Wait()
}

// TestLockOutlivesKilledParent checks the reason for the whole design: after a plugin was killed, its delegate
// continues, and no process gets the lock until the delegate has ended.
func TestLockOutlivesKilledParent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	cmd, finish := startPlugin(t, file)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // an error, because it was killed
	wantLockedUntil(t, file, finish)
}

// TestCloseLeavesLockToChild is the same with a parent that closes the lock and continues.
func TestCloseLeavesLockToChild(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	lock, err := TryAcquire(file, "container")
	if err != nil {
		t.Fatal(err)
	}
	delegate := exec.Command(os.Args[0])
	delegate.Env = append(os.Environ(), roleVar+"=delegate", noRaceSleep)
	delegate.ExtraFiles = []*os.File{lock.File()}
	stdin, err := delegate.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := delegate.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { delegate.Wait() })
	t.Cleanup(func() { stdin.Close() })
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	wantLockedUntil(t, file, func() { stdin.Close() })
}

// startPlugin returns once the plugin holds the lock and the delegate runs. finish ends the delegate.
func startPlugin(t *testing.T, file string) (cmd *exec.Cmd, finish func()) {
	t.Helper()
	// Not the pipes of exec.Cmd: Wait would close them while the delegate still uses them.
	stdinR, stdinW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdinW.Close() })
	defer stdinR.Close()
	stdoutR, stdoutW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdoutR.Close()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"=plugin", fileVar+"="+file, noRaceSleep)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdinR, stdoutW, os.Stderr
	err = cmd.Start()
	stdoutW.Close()
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdoutR).ReadString('\n'); line != "started\n" {
		t.Fatalf("plugin printed %q, %v", line, err)
	}
	return cmd, func() { stdinW.Close() }
}

// wantLockedUntil checks that the lock cannot be taken before finish, and that a waiting process gets it afterwards.
func wantLockedUntil(t *testing.T, file string, finish func()) {
	t.Helper()
	if lock, err := TryAcquire(file, "container"); !errors.Is(err, ErrLocked) {
		t.Fatalf("TryAcquire = %v, %v while the delegate works, want %v", lock, err, ErrLocked)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if lock, err := Acquire(ctx, file, "container"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Acquire = %v, %v while the delegate works, want it to wait", lock, err)
	}
	finish()
	ctx, cancel = context.WithTimeout(t.Context(), limit)
	defer cancel()
	lock, err := Acquire(ctx, file, "container")
	if err != nil {
		t.Fatalf("after the delegate has ended: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

func TestAcquireCreates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	file := filepath.Join(dir, "lock")
	lock, err := Acquire(t.Context(), file, "")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, file: 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", filepath.Base(path), info.Mode(), want)
		}
	}
}

func TestAcquireFails(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	for _, path := range []string{dir, filepath.Join(dir, "file", "lock")} {
		if _, err := Acquire(t.Context(), path, "k"); err == nil || errors.Is(err, ErrLocked) {
			t.Errorf("Acquire %q: error %v", path, err)
		}
		if _, err := TryAcquire(path, "k"); err == nil || errors.Is(err, ErrLocked) {
			t.Errorf("TryAcquire %q: error %v", path, err)
		}
	}
}

func TestKeysAreIndependent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	for _, key := range []string{"a", "b", ""} {
		lock, err := TryAcquire(file, key)
		if err != nil {
			t.Fatalf("key %q: %v", key, err)
		}
		defer lock.Close()
	}
}

func TestAcquireContext(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	held, err := Acquire(ended, file, "k")
	if err != nil {
		t.Fatalf("a free lock needs no wait: %v", err)
	}
	timed, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for ctx, want := range map[context.Context]error{ended: context.Canceled, timed: context.DeadlineExceeded} {
		_, err := Acquire(ctx, file, "k")
		if !errors.Is(err, want) || !errors.Is(err, ErrLocked) {
			t.Errorf("error %v, want %v and %v", err, ErrLocked, want)
		}
	}
	// The two that gave up still wait in the kernel. They get the lock before this Acquire and must pass it on.
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	lock, err := Acquire(ctx, file, "k")
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
}

// TestContention lets many goroutines take turns. The counters are atomic because the race detector does not see a lock
// of the kernel.
func TestContention(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	const workers, turns = 8, 25
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var inside, total atomic.Int32
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range turns {
				lock, err := Acquire(ctx, file, "k")
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				total.Add(1)
				runtime.Gosched() // let others try
				inside.Add(-1)
				lock.Close()
			}
		})
	}
	all.Wait()
	if got := total.Load(); got != workers*turns {
		t.Errorf("%d turns, want %d", got, workers*turns)
	}
}
