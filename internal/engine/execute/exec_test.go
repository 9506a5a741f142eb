package execute

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// script writes a plugin.
func script(tb testing.TB, path, body string) string {
	tb.Helper()
	// A process that another test starts in the meantime would have the file open for writing until its exec. Until then,
	// the script could not be started (text file busy).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		tb.Fatal(err)
	}
	return path
}

func TestExecOutput(t *testing.T) {
	t.Parallel()
	tests := []struct{ rule, body, stdin, want string }{
		{"F64 nothing", `exit 0`, `{}`, `{}`},
		{"F64 white space", `echo; echo " "`, `{"prevResult":null}`, `{}`},
		{
			"F64 nothing, in a chain", `exit 0`, `{"prevResult":{"cniVersion":"1.0.0", "n": 9007199254740993}}`,
			`{"cniVersion":"1.0.0", "n": 9007199254740993}`,
		},
		{"no output, and input that is not JSON", `exit 0`, `{`, `{}`},
		{"K3 standard input as it is", `cat`, "{ \"a\":\t1e400 }", "{ \"a\":\t1e400 }"},
		{"K2 environment as it is, and no other", `echo "$A-$HOME"`, ``, "b-\n"},
		{"standard error does not mix", `echo out; echo err >&2`, ``, "out\n"},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			path := script(t, filepath.Join(t.TempDir(), "p"), tc.body)
			e := &Exec{}
			out, err := e.ExecPlugin(t.Context(), path, []byte(tc.stdin), []string{"A=b", "PATH=/usr/bin:/bin"})
			if err != nil || string(out) != tc.want || !e.started {
				t.Errorf("%q, %v, started %t; want %q", out, err, e.started, tc.want)
			}
		})
	}
}

// TestExecErrors checks the errors of failed plugins: what they printed or how they ended (behaviour F64, M28), and
// that a killed plugin is named (multus-cni#1107).
func TestExecErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, body string
		want       []string
		code       uint
	}{
		{
			"D5 its own error", `echo '{"code":101,"msg":"no address","details":"pool"}'; echo noise >&2; exit 1`,
			[]string{"no address; pool"},
			101,
		},
		{"F64 an error without a code", `echo '{"msg":"x"}'; exit 1`, []string{"x"}, 0},
		{
			"F64 garbage", `echo Segfault; exit 1`,
			[]string{`netplugin failed but error parsing its diagnostic message "Segfault\n"`, "plug"},
			0,
		},
		{
			"F64 JSON that is not an error", `echo '{"a":1}'; exit 1`,
			[]string{"netplugin failed but error parsing its diagnostic message"},
			0,
		},
		{"M28 standard error", `echo boom >&2; exit 3`, []string{`netplugin failed: "boom\n"`, "plug", "exit status 3"}, 0},
		{"M28 nothing", `exit 2`, []string{"netplugin failed with no error message", "plug", "exit status 2"}, 0},
		{
			"F64 killed", `kill -KILL $$`,
			[]string{"netplugin failed with no error message", "plug", "signal: killed", "memory"},
			0,
		},
		{"F64 another signal", `kill -TERM $$`, []string{"plug", "signal: terminated"}, 0},
		{
			"bounded standard error", `head -c 100000 /dev/zero | tr '\0' x >&2; exit 1`,
			[]string{`netplugin failed: "xxx`, "xxx..."},
			0,
		},
		{
			"bounded standard output", `head -c 20000000 /dev/zero | tr '\0' x; exit 1`,
			[]string{"diagnostic message", "xxx..."},
			0,
		},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			path := script(t, filepath.Join(t.TempDir(), "plug"), tc.body)
			e := &Exec{}
			out, err := e.ExecPlugin(t.Context(), path, nil, []string{"PATH=/usr/bin:/bin"})
			if err == nil || out != nil || !e.started {
				t.Fatalf("%q, %v, started %t", out, err, e.started)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%.300q does not contain %q", err, want)
				}
			}
			if len(err.Error()) > 1000 {
				t.Errorf("%d bytes of error", len(err.Error()))
			}
			var ce *types.Error
			if tc.code != 0 && (!errors.As(err, &ce) || ce.Code != tc.code) {
				t.Errorf("code of %v", err)
			}
		})
	}
}

func TestExecMissing(t *testing.T) {
	t.Parallel()
	e := &Exec{}
	dir := t.TempDir()
	// The error of a missing plugin (behaviour K1, M18).
	if _, err := e.FindInPath("nope", []string{dir}); err == nil ||
		!strings.Contains(err.Error(), `failed to find plugin "nope" in path [`+dir+`]`) {
		t.Error(err)
	}
	if _, err := e.FindInPath("../x", []string{dir}); err == nil {
		t.Error("a type with a slash")
	}
	if out, err := e.ExecPlugin(t.Context(), filepath.Join(dir, "nope"), nil, nil); err == nil {
		t.Errorf("%q", out)
	}
}

// TestExecCancelled checks that cancellation kills the delegate and all its child processes, and that the error gives
// the reason (behaviour F65, O36). The lock that delegates hold shows when the last of them has ended.
func TestExecCancelled(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := script(t, filepath.Join(t.TempDir(), "plug"), "sleep 1000 &\n(sleep 1000) &\necho ready >&3\nwait")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := (&Exec{Lock: w}).ExecPlugin(ctx, path, nil, []string{"PATH=/usr/bin:/bin"})
		done <- err
	}()
	if _, err := io.ReadFull(r, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	cancel(errors.New("ADD took longer than 90s"))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "plug") ||
		!strings.Contains(err.Error(), "killed: ADD took longer than 90s") {
		t.Errorf("%v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("a process survives: %q, %v", rest, err)
	}
}

// TestExecLock checks that a delegate holds the sandbox's lock as long as it runs, and that it inherits no other file.
func TestExecLock(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path := script(t, filepath.Join(t.TempDir(), "plug"),
		"for fd in /proc/$$/fd/*; do case $(readlink $fd) in "+f.Name()+") echo ${fd##*/};; esac; done")
	out, err := (&Exec{Lock: f}).ExecPlugin(t.Context(), path, nil, []string{"PATH=/usr/bin:/bin"})
	if err != nil || string(out) != "3\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestExecDaemon checks that a plugin that exits with success has succeeded, even if a background process that it
// started keeps its output open.
func TestExecDaemon(t *testing.T) {
	t.Parallel()
	path := script(t, filepath.Join(t.TempDir(), "plug"), "echo '{}'\nsleep 3 &\nexit 0")
	out, err := (&Exec{}).ExecPlugin(t.Context(), path, nil, []string{"PATH=/usr/bin:/bin"})
	if err != nil {
		t.Errorf("known again: exec.ErrWaitDelay counts as a failure: %v", err)
	}
	if string(out) != "{}\n" {
		t.Errorf("%q", out)
	}
}

// TestExecBusy checks F63: a binary that is being replaced is tried again until it can be run or the request
// ends.
func TestExecBusy(t *testing.T) {
	t.Parallel()
	t.Run("until it is free", func(t *testing.T) {
		t.Parallel()
		path := script(t, filepath.Join(t.TempDir(), "plug"), "echo '{}'")
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&Exec{}).once(t.Context(), path, nil, nil); !errors.Is(err, syscall.ETXTBSY) {
			t.Errorf("a file that is open for writing: %v", err)
		}
		time.AfterFunc(busyPause/2, func() { f.Close() })
		e := &Exec{}
		if out, err := e.ExecPlugin(t.Context(), path, nil, nil); err != nil || string(out) != "{}\n" || !e.started {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("until the request ends", func(t *testing.T) {
		t.Parallel()
		path := script(t, filepath.Join(t.TempDir(), "plug"), "echo '{}'")
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ctx, cancel := context.WithTimeout(t.Context(), busyPause/2)
		defer cancel()
		e := &Exec{}
		if _, err := e.ExecPlugin(ctx, path, nil, nil); !errors.Is(err, context.DeadlineExceeded) ||
			!strings.Contains(err.Error(), path) || e.started {
			t.Errorf("%v, started %t", err, e.started)
		}
	})
}

func TestBounded(t *testing.T) {
	t.Parallel()
	b := &bounded{limit: 5}
	for _, s := range []string{"abc", "def", "ghi", ""} {
		if n, err := b.Write([]byte(s)); n != len(s) || err != nil {
			t.Errorf("%d, %v: the writer must not block or fail", n, err)
		}
	}
	if !bytes.Equal(b.Bytes(), []byte("abcde")) {
		t.Errorf("%q", b.Bytes())
	}
}
