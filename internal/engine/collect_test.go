package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multus/internal/engine/detach"
	"multus/internal/engine/ledger"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

// TestCollect checks which sandboxes count as gone without a list of the runtime: those whose network namespace
// is gone and that were recorded before the boot or long enough ago. All others are left alone.
func TestCollect(t *testing.T) {
	t.Parallel()
	here := "/proc/self/ns/net"
	gone := filepath.Join(t.TempDir(), "gone")
	empty := filepath.Join(t.TempDir(), "empty") // what a namespace of another mount namespace looks like
	if err := os.WriteFile(empty, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	hidden := filepath.Join(t.TempDir(), "not", "mounted", "here")
	tests := []struct {
		name, netns, boot string
		age               time.Duration
		taken             bool
	}{
		{"alive", here, "now", time.Hour, false},
		{"alive, of another boot", here, "before", time.Hour, false},
		{"gone", gone, "now", time.Hour, true},
		{"gone, but recorded a minute ago", gone, "now", time.Minute, false},
		{"gone, of another boot", gone, "before", 0, true},
		{"gone, of an unknown boot", gone, "", time.Minute, false},
		{"in a directory that is not mounted here", hidden, "now", time.Hour, false},
		{"in a directory that is not mounted here, of another boot", hidden, "before", 0, true},
		{"not mounted here", empty, "now", time.Hour, false},
		{"not mounted here, of another boot", empty, "before", 0, true},
		{"cannot be examined", loop, "now", time.Hour, false},
		{"cannot be examined, of another boot", loop, "before", time.Hour, false},
		{"no namespace recorded", "", "before", time.Hour, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.attached(t, "c", "other", "1.0.0", tc.netns, tc.boot)
			n.age(t, "c", tc.age)
			dry, err := n.engine.Collect(t.Context(), n.request(request.Del, "", ""), DefaultGrace, true)
			if err != nil || (len(dry) == 1) != tc.taken || !n.recorded(t, "c") || n.called(t) != "" {
				t.Fatalf("dry run: %+v, %v", dry, err)
			}
			got, err := n.engine.Collect(t.Context(), n.request(request.Del, "", ""), DefaultGrace, false)
			if err != nil || (len(got) == 1) != tc.taken || n.recorded(t, "c") == tc.taken {
				t.Fatalf("%+v, %v", got, err)
			}
			called := n.called(t)
			if !tc.taken {
				if called != "" {
					t.Errorf("called: %s", called)
				}
				return
			}
			if called != "other DEL c, cluster DEL c" {
				t.Errorf("called: %s", called)
			}
			g := got[0]
			if g.ContainerID != "c" || g.Pod != "team/p-c" || g.Netns != tc.netns || len(g.Networks) != 2 || g.Why == "" ||
				!g.Freed || g.Err != nil {
				t.Errorf("%+v", g)
			}
			if dry[0].Freed || dry[0].Why != g.Why {
				t.Errorf("dry run: %+v", dry[0])
			}
		})
	}
}

// TestCollectFails checks that a sandbox that cannot be freed is reported, stays recorded and does not block the
// others.
func TestCollectFails(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "good", "bad")
	n.does(t, "bad", `echo '{"code":11,"msg":"later"}'; exit 1`)
	for _, c := range []string{"bad", "good"} {
		n.attached(t, c, c, "1.0.0", filepath.Join(n.dir, "gone"), "before")
		if err := n.store.RecordProgress(c, ledger.Progress{Begun: 2}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := n.engine.Collect(t.Context(), n.request(request.Del, "", ""), 0, false)
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, g := range got {
		if bad := g.ContainerID == "bad"; g.Freed == bad || (g.Err != nil) != bad || n.recorded(t, g.ContainerID) != bad {
			t.Errorf("%+v", g)
		}
	}
}

// TestAfterBoot checks that the first ADD after a boot frees what was attached before it, and that no later ADD does.
func TestAfterBoot(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	gone := filepath.Join(n.dir, "gone")
	n.attached(t, "before", "other", "1.0.0", gone, "before")
	n.attached(t, "now", "other", "1.0.0", gone, "now")
	n.age(t, "now", time.Hour)
	add := func() {
		t.Helper()
		// ADD fails because there is no network namespace. Only what happens before that is checked.
		if _, err := n.engine.Add(t.Context(), n.request(request.Add, "c", "")); err == nil {
			t.Fatal("no error")
		}
	}
	busy, err := fsx.Acquire(t.Context(), n.engine.deps.LockFile, "collect")
	if err != nil {
		t.Fatal(err)
	}
	add()
	if !n.recorded(t, "before") {
		t.Error("two ADDs collect at the same time")
	}
	if err := busy.Release(); err != nil {
		t.Fatal(err)
	}
	add()
	if n.recorded(t, "before") || !n.recorded(t, "now") || n.called(t) != "other DEL before, cluster DEL before" {
		t.Error("want only the sandbox from before the boot freed")
	}
	n.attached(t, "before", "other", "1.0.0", gone, "before")
	add()
	if !n.recorded(t, "before") || n.called(t) != "" {
		t.Error("looked again")
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "run")); err != nil { // a boot does this
		t.Fatal(err)
	}
	n.engine.deps.Boot = ""
	add()
	if !n.recorded(t, "before") {
		t.Error("without knowing the boot nothing is older than it")
	}
}

// reports is a publisher that stores the reports.
type reports struct{ got []*publish.Report }

func (r *reports) Publish(_ context.Context, rep *publish.Report) error {
	r.got = append(r.got, rep)
	return nil
}

// TestGivenUpIsReported checks that a network that is given up while a stale sandbox is freed is reported as after a
// DEL: by the runtime's GC, by multusctl gc, and by an ADD of the same container.
func TestGivenUpIsReported(t *testing.T) {
	t.Parallel()
	for name, free := range map[string]func(n *node) ([]StaleSandbox, error){
		"ADD": func(n *node) ([]StaleSandbox, error) {
			req := n.request(request.Add, "c", "")
			req.Args = request.Args{{request.PodNamespace, "team"}, {request.PodName, "p-c"}}
			_, err := n.engine.Add(t.Context(), req) // as in TestAfterBoot, ADD fails
			if err == nil || !strings.Contains(err.Error(), "no net namespace") {
				return nil, err
			}
			return nil, nil
		},
		"GC": func(n *node) ([]StaleSandbox, error) {
			return nil, n.engine.GC(t.Context(), n.request(request.GC, "", valid()))
		},
		"Collect": func(n *node) ([]StaleSandbox, error) {
			return n.engine.Collect(t.Context(), n.request(request.Del, "", ""), 0, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, published := newNode(t, "cluster", "other"), &reports{}
			n.attached(t, "plain", "cluster", "1.0.0", filepath.Join(n.dir, "gone"), "now")
			n.attached(t, "c", "other", "1.0.0", filepath.Join(n.dir, "gone"), "now")
			n.result(t, "other-net", "c", "net1")
			n.does(t, "other", `test $CNI_COMMAND = DEL && { echo '{"code":999,"msg":"Link not found"}'; exit 1; }`)
			n.result(t, "cluster-net", "c", "eth0")
			for range detach.Refusals {
				if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil {
					t.Fatal("nothing is refused")
				}
			}
			n.engine.deps.Publisher = published
			found, err := free(n)
			if err != nil || n.recorded(t, "c") {
				t.Fatalf("%+v, %v", found, err)
			}
			if len(published.got) != 1 {
				t.Fatalf("published: %+v", published.got)
			}
			rep := published.got[0]
			if rep.Command != request.Del || rep.ContainerID != "c" || rep.Pod.Namespace != "team" || rep.Pod.Name != "p-c" ||
				rep.Failure == nil || !rep.Failure.EmitEvent || !strings.Contains(rep.Failure.Message, "other-net") ||
				len(rep.Timings) != 2 {
				t.Errorf("published: %+v", rep)
			}
			for _, g := range found {
				if (len(g.GivenUp) == 1) != (g.ContainerID == "c") {
					t.Errorf("%+v", g)
				}
			}
		})
	}
}
