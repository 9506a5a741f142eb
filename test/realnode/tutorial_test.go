package realnode

import (
	"context"
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
)

// tutorialLimit bounds the start of the cluster, and the commands of one block.
const tutorialLimit = 3 * time.Minute

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
	env := startTutorial(t, dir)
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
		code, output := runShell(t, shell)
		if missing := b.missing(output); code != b.exits || len(missing) > 0 {
			t.Fatalf("block %d exits %d, want %d, and does not print %q:\n%s\n%s", i, code, b.exits, missing, b.commands, output)
		}
		// The next block runs in a shell with the same environment.
		shell = "cd " + repository + "\n. " + env + "\n"
	}
}

// startTutorial starts what `make cluster` starts, and returns the file with its environment. At the end it checks that
// an interrupt removes everything.
func startTutorial(t *testing.T, dir string) (env string) {
	t.Helper()
	program, env := filepath.Join(dir, "cluster"), filepath.Join(dir, "env")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./tools/cluster")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-env", env)
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, log, log
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		err := cmd.Wait()
		printed, _ := os.ReadFile(log.Name())
		left, _ := filepath.Glob(filepath.Join(dir, "multus-cluster-*"))
		if err != nil || len(left) > 0 || t.Failed() {
			t.Errorf("the cluster: %v, left %v\n%s", err, left, printed)
		}
	})
	until(t, "the cluster is ready", func() error {
		if _, err := os.Stat(env); err != nil {
			return fmt.Errorf("environment: %w", err)
		}
		return nil
	})
	return env
}

func runShell(t *testing.T, script string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), tutorialLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || !cmd.ProcessState.Exited() {
		t.Fatalf("%v\n%s", err, out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
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
