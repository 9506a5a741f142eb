package execute

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"multus/internal/engine/ledger"
)

// program is the prefix of the names under which this binary is a plugin: a program, unlike the scripts of the other
// tests, which are never started ahead.
const program = "program-"

// actAsPlugin logs that it was started, and then, when it has read its input, its verb. If the file <name>.waits
// exists, it then waits until the plugin that the file names has been started. If the file <name>.fails exists, it
// fails.
func actAsPlugin(name string) int {
	dir := filepath.Dir(os.Args[0])
	note := func(what string) {
		f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintf(f, "%s %s\n", strings.TrimPrefix(name, program), what)
		}
		if err != nil {
			panic(err)
		}
		_ = f.Close()
	}
	if _, err := os.Stat(filepath.Join(dir, name+".locks")); err == nil {
		lock(dir)
	}
	note("starts")
	_ = os.WriteFile(filepath.Join(dir, name+".pid"), []byte(strconv.Itoa(os.Getpid())), 0o600)
	if b, err := io.ReadAll(os.Stdin); err != nil || len(b) == 0 {
		note("has no input")
		return 1
	}
	note(os.Getenv("CNI_COMMAND") + " " + os.Getenv("CNI_IFNAME"))
	if other, err := os.ReadFile(filepath.Join(dir, name+".waits")); err == nil {
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			if strings.Contains(string(b), string(other)+" starts") {
				break
			}
			if time.Now().After(end) {
				note("has waited in vain")
				return 1
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, name+".needs")); err == nil {
		lock(dir)
	}
	if _, err := os.Stat(filepath.Join(dir, name+".fails")); err == nil {
		fmt.Println(`{"code":999,"msg":"no"}`)
		return 1
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		fmt.Println(`{"cniVersion":"1.0.0"}`)
	}
	return 0
}

// lock takes a lock that the process holds until it ends.
func lock(dir string) {
	fd, err := syscall.Open(dir, syscall.O_RDONLY, 0)
	if err == nil {
		err = syscall.Flock(fd, syscall.LOCK_EX)
	}
	if err != nil {
		panic(err)
	}
}

// newPrograms returns a node with programs as plugins, on which delegates are started ahead.
func newPrograms(t *testing.T, plugins ...string) *node {
	t.Helper()
	n := newNode(t)
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins {
		if err := os.Symlink(me, filepath.Join(n.dir, program+p)); err != nil {
			t.Fatal(err)
		}
	}
	n.run.exec.Prestart, n.run.exec.busy = true, func() bool { return false }
	n.run.exec.aheadLimit = time.Minute // with the race detector, this program takes seconds to start
	t.Cleanup(n.run.Close)
	return n
}

// waits makes a plugin wait until another one has been started.
func (n *node) waits(t *testing.T, plugin, other string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, program+plugin+".waits"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
}

// alive reports whether the last process of a plugin exists.
func (n *node) alive(t *testing.T, plugin string) bool {
	t.Helper()
	pid, err := strconv.Atoi(n.read(t, program+plugin+".pid"))
	if err != nil {
		return false // killed before it wrote the file
	}
	return syscall.Kill(pid, 0) == nil
}

// verbs returns the verbs that plugins ran, in their order, and how many processes were started.
func verbs(log string) (ran string, started int) {
	var out []string
	for item := range strings.SplitSeq(log, ", ") {
		if strings.HasSuffix(item, " starts") {
			started++
			continue
		}
		out = append(out, item)
	}
	return strings.Join(out, ", "), started
}

const chain = `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"program-a"},{"type":"program-b"}]}`

// TestPrestart checks that the next plugin of a list is started while the one before it works, and that it gets its
// input afterwards: the order of the verbs is that of the list.
func TestPrestart(t *testing.T) {
	t.Parallel()
	n := newPrograms(t, "a", "b")
	r, a := attachment(t, chain)
	n.waits(t, "a", "b")
	n.run.Prestart("ADD", r, a)
	if _, _, err := n.run.Add(t.Context(), r, a); err != nil {
		t.Fatal(err, n.called(t))
	}
	if ran, started := verbs(n.called(t)); ran != "a ADD net1, b ADD net1" || started != 2 {
		t.Errorf("%d processes ran %s", started, ran)
	}
	if err := os.Remove(filepath.Join(n.dir, program+"a.waits")); err != nil {
		t.Fatal(err)
	}
	n.waits(t, "b", "a")
	if err := n.run.Del(t.Context(), r, a); err != nil {
		t.Fatal(err, n.called(t))
	}
	if ran, started := verbs(n.called(t)); ran != "b DEL net1, a DEL net1" || started != 2 {
		t.Errorf("%d processes ran %s", started, ran)
	}
}

// TestPrestartOfNext checks that the first plugin of the next attachment is started while the last one of this one
// works, with the environment of its own attachment.
func TestPrestartOfNext(t *testing.T) {
	t.Parallel()
	n := newPrograms(t, "a", "b")
	r, first := attachment(t, `{"cniVersion":"1.0.0","name":"n","type":"program-a"}`)
	_, second := attachment(t, `{"cniVersion":"1.0.0","name":"m","type":"program-b"}`)
	second.IfName = "net2"
	r.Attachments = []ledger.Attachment{*first, *second}
	n.waits(t, "a", "b")
	n.run.Then("ADD", r, second)
	for _, a := range []*ledger.Attachment{first, second} {
		if _, _, err := n.run.Add(t.Context(), r, a); err != nil {
			t.Fatal(err, n.called(t))
		}
	}
	if ran, started := verbs(n.called(t)); ran != "a ADD net1, b ADD net2" || started != 2 {
		t.Errorf("%d processes ran %s", started, ran)
	}
}

// TestPrestartIsNotNeeded checks that a plugin that was started ahead and does not run is ended without input.
func TestPrestartIsNotNeeded(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]func(*testing.T, *node, *ledger.Record, *ledger.Attachment){
		"the plugin before it fails": func(t *testing.T, n *node, r *ledger.Record, a *ledger.Attachment) {
			t.Helper()
			n.waits(t, "a", "b")
			if err := os.WriteFile(filepath.Join(n.dir, program+"a.fails"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, begun, err := n.run.Add(t.Context(), r, a); err == nil || !begun {
				t.Errorf("begun %t, %v", begun, err)
			}
		},
		"nothing runs": func(_ *testing.T, n *node, r *ledger.Record, a *ledger.Attachment) {
			n.run.Prestart("DEL", r, a) // of the list, b is the first
			n.run.Close()
		},
		"another one runs": func(t *testing.T, n *node, r *ledger.Record, a *ledger.Attachment) {
			t.Helper()
			n.run.Prestart("DEL", r, a)
			other := *a
			other.IfName = "net7"
			if err := n.run.Del(t.Context(), r, &other); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newPrograms(t, "a", "b")
			r, a := attachment(t, chain)
			tc(t, n, r, a)
			got := n.called(t)
			if strings.Contains(got, "b ADD") || strings.Contains(got, "b DEL net1") || strings.Contains(got, "no input") {
				t.Errorf("called: %s", got)
			}
			if n.alive(t, "b") || n.run.exec.ahead != nil {
				t.Error("it was not ended")
			}
		})
	}
}

// TestPrestartAfterKill checks that a plugin whose input ends without a byte, as after a kill of this process, fails by
// itself.
func TestPrestartAfterKill(t *testing.T) {
	t.Parallel()
	n := newPrograms(t, "b")
	r, a := attachment(t, `{"cniVersion":"1.0.0","name":"n","type":"program-b"}`)
	n.run.Prestart("ADD", r, a)
	p := n.run.exec.ahead.process
	n.run.exec.ahead = nil
	p.withheld = false
	p.feed() // there is no input: the pipe is closed, as the kernel does it
	if err := p.finish(t.Context(), &bounded{limit: 100}, &bounded{limit: 100}); err == nil {
		t.Error("it succeeds")
	}
	if got := n.called(t); got != "b starts, b has no input" {
		t.Errorf("called: %s", got)
	}
}

// TestPrestartOfLocker checks that a plugin that takes a lock before it reads its input does not keep the lock from the
// one before it.
func TestPrestartOfLocker(t *testing.T) {
	t.Parallel()
	n := newPrograms(t, "a", "b")
	n.run.exec.aheadLimit = 10 * time.Second
	n.waits(t, "a", "b")
	for _, file := range []string{"a.needs", "b.locks"} {
		if err := os.WriteFile(filepath.Join(n.dir, program+file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, a := attachment(t, chain)
	if _, _, err := n.run.Add(ctx, r, a); err != nil {
		t.Fatal(err, n.called(t))
	}
	if ran, started := verbs(n.called(t)); ran != "a ADD net1, b ADD net1" || started != 3 {
		t.Errorf("%d processes ran %s", started, ran)
	}
}

// TestNoPrestart checks when no plugin is started ahead.
func TestNoPrestart(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T, *node){
		"switched off":     func(_ *testing.T, n *node) { n.run.exec.Prestart = false },
		"the node is busy": func(_ *testing.T, n *node) { n.run.exec.busy = func() bool { return true } },
		"a script": func(t *testing.T, n *node) {
			t.Helper()
			file := filepath.Join(n.dir, program+"b")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			script(t, file, `cat >/dev/null; echo '{}'`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newPrograms(t, "a", "b")
			prepare(t, n)
			r, a := attachment(t, `{"cniVersion":"1.0.0","name":"n","type":"program-b"}`)
			n.run.Prestart("ADD", r, a)
			if n.run.exec.ahead != nil {
				t.Error("it was started")
			}
			if _, _, err := n.run.Add(t.Context(), r, a); err != nil {
				t.Error(err)
			}
		})
	}
}
