package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// run starts a process and waits for its end.
func run(ctx context.Context, path string, environ []string, stdin []byte, held *os.File, stdout,
	stderr *bounded,
) error {
	return (&Exec{Lock: held}).run(ctx, path, stdin, environ, stdout, stderr)
}

// TestProcess checks that run does not block on a delegate that reads its input late, partly or never, or on what it
// leaves running in the background, and that run reads all of its output.
func TestProcess(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB, more than a pipe holds
	tests := []struct {
		what, body, stdin, want string
		length                  int
	}{
		{"reads all", `exec cat`, long, long, 0},
		{"reads late", `sleep 0.2; exec cat`, long, long, 0},
		{"reads nothing", `echo out`, long, "out\n", 0},
		{"reads a part", `head -c 3`, long, "012", 0},
		{"writes much and ends", `head -c 60000 /dev/zero`, "", "", 60000},
		{
			"leaves a process that writes forever",
			`sh -c 'while kill -0 '$PPID' 2>/dev/null; do head -c 100000 /dev/zero; done' & exit 0`, "", "", -1,
		},
		{
			"answers through a child that it does not wait for",
			`exec /bin/bash -c 'exec > >(sleep 0.1; cat); echo "{\"a\":1}"'`, "", "{\"a\":1}\n", 0,
		},
		{"has a result, and leaves a process behind", `echo '{}'; sleep 30 & exit 0`, "", "{}\n", 0},
		{"closes its outputs and continues", `exec >&- 2>&-; sleep 0.2`, "", "", 0},
	}
	for _, tc := range tests {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			path, start := script(t, filepath.Join(t.TempDir(), "p"), tc.body), time.Now()
			stdout, stderr := &bounded{limit: maxStdout}, &bounded{limit: maxStderr}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := run(ctx, path, []string{"PATH=/usr/bin:/bin"}, []byte(tc.stdin), nil, stdout, stderr)
			if err != nil {
				t.Fatalf("%v: %s", err, stderr.Bytes())
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			switch {
			case tc.length < 0:
			case tc.length > 0 && stdout.Len() != tc.length, tc.length == 0 && stdout.String() != tc.want:
				t.Errorf("%d bytes of output: %.40q", stdout.Len(), stdout.String())
			}
		})
	}
}

// TestProcessWithoutPidfd emulates a kernel older than 5.3, and one whose pidfds cannot be polled (5.2): they are
// always readable.
func TestProcessWithoutPidfd(t *testing.T) {
	t.Parallel()
	for name, ended := range map[string]func(*testing.T, *process){
		"none":           func(t *testing.T, p *process) { t.Helper(); closeFD(&p.ended); must(t, p.watch()) },
		"always ready":   func(t *testing.T, p *process) { t.Helper(); closeFD(&p.ended); p.ended = readable(t) },
		"of this kernel": func(*testing.T, *process) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := script(t, filepath.Join(t.TempDir(), "p"), "read x; echo $x; sleep 0.1; exit 7")
			p := &process{stdin: -1, stdout: -1, stderr: -1, ended: -1, input: []byte("word\n")}
			defer p.close()
			must(t, p.start(path, []string{"PATH=/usr/bin:/bin"}, nil))
			ended(t, p)
			stdout, stderr := &bounded{limit: 100}, &bounded{limit: 100}
			status, err := p.wait(func() bool { return t.Context().Err() != nil }, stdout, stderr)
			if err != nil || status.ExitStatus() != 7 || stdout.String() != "word\n" {
				t.Errorf("%v, %v, %q", status, err, stdout.String())
			}
			p.kill() // must have no effect: the process ID may be reused
			if !p.reaped {
				t.Error("not reaped")
			}
		})
	}
}

// leavesGroup makes the test binary a delegate that leaves its process group.
const leavesGroup = "MULTUS_TEST_LEAVES_GROUP"

func leaveGroup() {
	group, err := syscall.Getpgid(os.Getppid())
	if err == nil {
		err = syscall.Setpgid(0, group)
	}
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(os.NewFile(3, "lock"), "left")
	time.Sleep(time.Hour)
}

// TestProcessLeavesGroup checks that a delegate that has joined another process group is killed, too, because the
// request waits for it.
func TestProcessLeavesGroup(t *testing.T) {
	t.Parallel()
	me, err := os.Executable()
	must(t, err)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, me, []string{leavesGroup + "=1"}, nil, w, &bounded{limit: maxStdout}, &bounded{limit: maxStderr})
	}()
	_, err = io.ReadFull(r, make([]byte, len("left\n")))
	must(t, err)
	cancel()
	if err := <-done; err == nil {
		t.Error("it ended by itself")
	}
	w.Close()
}

func readable(t *testing.T) int {
	t.Helper()
	f, err := os.Open("/dev/zero")
	must(t, err)
	defer f.Close()
	fd, err := syscall.Dup(int(f.Fd()))
	must(t, err)
	return fd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestProcessNotStarted checks that run starts nothing after cancellation, and that a process that cannot be started
// leaks no file descriptor.
func TestProcessNotStarted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, "/bin/true", nil, nil, nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p := &process{stdin: -1, stdout: -1, stderr: -1, ended: -1}
	err := p.start(filepath.Join(t.TempDir(), "nope"), nil, nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "fork/exec") {
		t.Error(err)
	}
	p.close()
	if p.stdin != -1 || p.stdout != -1 || p.stderr != -1 || p.ended != -1 {
		t.Errorf("%+v", p)
	}
}
