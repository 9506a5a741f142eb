package realnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/proc"
)

// Limits of the tutorial, each for a busy machine.
const (
	// tutorialBuild bounds the build of what `make cluster` starts, with an empty build cache.
	tutorialBuild = 10 * time.Minute
	// tutorialStart bounds the start of the cluster, which builds an image.
	tutorialStart = 3 * time.Minute
	// tutorialBlock bounds the commands of one block.
	tutorialBlock = 3 * time.Minute
	// tutorialEnd bounds the removal of the cluster after an interrupt, which takes a second or two.
	tutorialEnd = time.Minute
)

// block is one block of commands of a page, with what it should print.
type block struct {
	commands string
	exits    int
	prints   []string
}

// blocks returns the blocks of commands of a page. The block of text after one is what it prints.
func blocks(t *testing.T, page string) (out []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	fenced := regexp.MustCompile("(?ms)^```(sh|text)(?: exits ([0-9]+))?\n(.*?)^```$")
	for _, m := range fenced.FindAllStringSubmatch(string(text), -1) {
		switch {
		case m[1] == "sh":
			exits, _ := strconv.Atoi(m[2]) // 0 without the word
			out = append(out, block{commands: m[3], exits: exits})
		case len(out) == 0 || out[len(out)-1].prints != nil:
			t.Fatalf("text without commands: %s", m[3])
		default:
			out[len(out)-1].prints = strings.Split(strings.TrimSuffix(m[3], "\n"), "\n")
		}
	}
	return out
}

// missing returns the lines that an output lacks, in their order. … stands for any text, or for any lines.
func (b *block) missing(output string) (lines []string) {
	rest := strings.Split(output, "\n")
	for _, want := range b.prints {
		parts := strings.Split(want, "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
		at := 0
		for at < len(rest) && !pattern.MatchString(rest[at]) {
			at++
		}
		if at == len(rest) {
			lines = append(lines, want)
			continue
		}
		rest = rest[at+1:]
	}
	return lines
}

// TestTutorial runs every command of docs/tutorial.md on the cluster of `make cluster`, as a user does.
func TestTutorial(t *testing.T) {
	if os.Getenv("REALNODE") == "" {
		t.Skip("a real node is not requested: run make e2e, or set REALNODE=1")
	}
	dir := t.TempDir()
	p, env := startTutorial(t, dir)
	ctx := whileRuns(t, p)
	repository, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	shell := "cd " + repository + "\n"
	all := blocks(t, filepath.Join(root, "docs", "tutorial.md"))
	if len(all) < 8 {
		t.Fatalf("%d blocks of commands", len(all))
	}
	for i := range all {
		b := &all[i]
		shell += strings.ReplaceAll(b.commands, "bin/cluster-env", env)
		code, output, err := runShell(ctx, shell)
		if err != nil {
			t.Fatalf("block %d: %v\n%s\n%s", i, err, b.commands, output)
		}
		if missing := b.missing(output); code != b.exits || len(missing) > 0 {
			t.Fatalf("block %d exits %d, want %d, and does not print %q:\n%s\n%s", i, code, b.exits, missing, b.commands, output)
		}
		// The next block runs in a shell with the same environment.
		shell = "cd " + repository + "\n. " + env + "\n"
	}
}

// startTutorial starts what `make cluster` starts, and returns it with the file of its environment. At the end it
// checks that an interrupt removes everything.
func startTutorial(t *testing.T, dir string) (p *proc.Process, env string) {
	t.Helper()
	program, env := filepath.Join(dir, "cluster"), filepath.Join(dir, "env")
	ctx, cancel := context.WithTimeoutCause(t.Context(), tutorialBuild, fmt.Errorf("not within %s", tutorialBuild))
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./tools/cluster")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build tools/cluster: %v\n%s", errors.Join(context.Cause(ctx), err), out)
	}
	cmd := exec.Command(program, "-env", env)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "TMPDIR="+dir)
	p, err := proc.Start(filepath.Join(dir, "cluster.log"), cmd, proc.Here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := interrupt(p, tutorialEnd)
		left, _ := filepath.Glob(filepath.Join(dir, "multus-cluster-*"))
		if err != nil || len(left) > 0 || t.Failed() {
			t.Errorf("the cluster: %v, left %v\n%s", err, left, p.Tail())
		}
	})
	began := time.Now()
	if err := untilFile(p, env, tutorialStart); err != nil {
		t.Fatal(err)
	}
	t.Logf("the cluster is ready: %.1f s", time.Since(began).Seconds())
	return p, env
}

// untilFile waits until a program has written a file. It returns an error with the end of the program's output if the
// program ends before, or after limit.
func untilFile(p *proc.Process, file string, limit time.Duration) error {
	var err error
	ended := false
	eventually.Is(limit, func() bool {
		ended = p.Exited() // before the look at the file, which a program may write and then end
		_, err = os.Stat(file)
		return err == nil || ended
	})
	switch {
	case err == nil:
		return nil
	case ended:
		return errors.Join(fmt.Errorf("%s has ended early: %w\n%s", p.Name, err, p.Tail()), p.Err)
	}
	return fmt.Errorf("no file within %s: %w\n%s", limit, err, p.Tail())
}

// interrupt sends an interrupt to a program and returns its result. After limit it kills the process group.
func interrupt(p *proc.Process, limit time.Duration) error {
	_ = p.Signal(syscall.SIGINT) // it may have ended
	select {
	case <-p.Done():
		return p.Err
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s was killed: it did not end within %s of an interrupt", p.Name, limit)
	}
}

// whileRuns returns a context that ends with the test, or before when the program ends.
func whileRuns(t *testing.T, p *proc.Process) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		select {
		case <-p.Done():
			cancel(errors.Join(fmt.Errorf("%s has ended early\n%s", p.Name, p.Tail()), p.Err))
		case <-ctx.Done():
		}
	}()
	return ctx
}

// runShell runs a script, and returns its exit code and its output. When ctx ends, or after tutorialBlock, it kills the
// process group, so that no command of the script holds the output open, and returns an error.
func runShell(ctx context.Context, script string) (code int, output string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tutorialBlock, fmt.Errorf("not within %s", tutorialBlock))
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || !cmd.ProcessState.Exited() {
		return 0, string(out), errors.Join(context.Cause(ctx), err)
	}
	return cmd.ProcessState.ExitCode(), string(out), nil
}

// TestTutorialEnds checks how the test of the tutorial waits: a cluster that ends early is reported at once with its
// output, and one that ignores the interrupt is killed with what it has started.
func TestTutorialEnds(t *testing.T) {
	t.Parallel()
	const soon = 100 * time.Millisecond
	dir := t.TempDir()
	run := func(name, script string) (p *proc.Process, file string) {
		t.Helper()
		file = filepath.Join(dir, name)
		cmd := exec.Command("sh", "-c", script, "sh", file)
		in, err := cmd.StdinPipe() // cat reads it until it is closed
		if err != nil {
			t.Fatal(err)
		}
		if p, err = proc.Start(file+".log", cmd, proc.Here); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Kill(); _ = in.Close() })
		return p, file
	}

	p, file := run("early", "echo no kubelet; exit 3")
	if err := untilFile(p, file, tutorialStart); err == nil || !strings.Contains(err.Error(), "exit status 3") ||
		!strings.Contains(err.Error(), "no kubelet") {
		t.Errorf("a cluster that ends early: %v", err)
	}
	p, file = run("later", `echo no memory; : >"$1"; cat`)
	if err := untilFile(p, file, tutorialStart); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("kill -9 %d; tail -f /dev/null & wait", p.Pid)
	if _, _, err := runShell(whileRuns(t, p), script); err == nil ||
		!strings.Contains(err.Error(), "later has ended early") || !strings.Contains(err.Error(), "no memory") {
		t.Errorf("a cluster that ends during a block: %v", err)
	}
	p, file = run("slow", "cat")
	if err := untilFile(p, file, soon); err == nil || !strings.Contains(err.Error(), "within "+soon.String()) {
		t.Errorf("a cluster that does not become ready: %v", err)
	}
	if err := interrupt(p, tutorialEnd); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("a cluster that an interrupt ends: %v", err)
	}
	p, file = run("deaf", `trap "" INT; exec 3<&0; (: >"$1"; cat <&3) & wait`)
	if err := untilFile(p, file, tutorialStart); err != nil {
		t.Fatal(err)
	}
	if err := interrupt(p, soon); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("a cluster that ignores an interrupt: %v", err)
	}
	gone := func() bool { return errors.Is(syscall.Kill(-p.Pid, 0), syscall.ESRCH) }
	if !p.Exited() || !eventually.Is(tutorialEnd, gone) {
		t.Error("a process is left")
	}
}

// TestTutorialOutput checks how the output of commands is compared: line by line, in order.
func TestTutorialOutput(t *testing.T) {
	t.Parallel()
	b := &block{prints: []string{"pod/one created", "two has 192.0.2.…", "…", "end"}}
	for output, want := range map[string]int{
		"pod/one created\ntwo has 192.0.2.3\nany\nend\n":        0,
		"more\npod/one created\ntwo has 192.0.2.\nmore\nend\n":  0,
		"two has 192.0.2.3\npod/one created\nany\nend\n":        1,
		"pod/one created now\ntwo has 192.0.2.3\nany\nend\n":    1,
		"pod/one created\ntwo has 198.51.100.3\nany\nthe end\n": 2,
		"": 3,
	} {
		if got := b.missing(output); len(got) != want {
			t.Errorf("%q: missing %q, want %d", output, got, want)
		}
	}
	if got := blocks(t, filepath.Join(root, "docs", "tutorial.md")); len(got) < 8 || got[0].exits != 0 {
		t.Errorf("%d blocks", len(got))
	}
}
