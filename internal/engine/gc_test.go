package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/fsx"
)

func valid(ids ...string) string {
	var list []string
	for _, id := range ids {
		list = append(list, `{"containerID":"`+id+`","ifname":"eth0"}`)
	}
	return `,"cni.dev/valid-attachments":[` + strings.Join(list, ",") + `]`
}

// TestGC checks that GC follows the runtime's list and covers every network of the node (behaviour D102-D104; CNI SPEC
// 1.1 §GC).
func TestGC(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new", "old")
	n.attached(t, "stays", "new", "1.1.0", "/run/netns/x", "now")
	n.attached(t, "stale", "old", "1.0.0", "/run/netns/y", "now")
	if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid("stays"))); err != nil {
		// The plugins of a sandbox without results get DEL, too. Here they succeed.
		t.Fatal(err)
	}
	got := n.called(t)
	for _, want := range []string{"old DEL stale, cluster DEL stale", "cluster GC", "new GC"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q was not called: %s", want, got)
		}
	}
	if strings.Contains(got, "old GC") || strings.Contains(got, "DEL stays") {
		t.Errorf("called: %s", got)
	}
	if n.recorded(t, "stale") || !n.recorded(t, "stays") {
		t.Error("the wrong record was removed")
	}
	if in := n.in(t, "new", "GC"); !strings.Contains(in, `{"containerID":"stays","ifname":"net1"}`) ||
		strings.Contains(in, "stale") {
		t.Errorf("GC of new: %s", in)
	}
}

// calledSorted is called for plugins that run at the same time.
func (n *node) calledSorted(t *testing.T) string {
	t.Helper()
	calls := strings.Split(n.called(t), ", ")
	for i := range calls {
		calls[i] = strings.TrimSpace(calls[i])
	}
	slices.Sort(calls)
	return strings.Join(calls, ", ")
}

// TestGCEveryNetwork checks that a network without pods gets GC until its plugins have cleaned up.
func TestGCEveryNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new")
	n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil {
		t.Fatal(err)
	}
	n.called(t)
	n.does(t, "new", `test $CNI_COMMAND = GC && { echo '{"code":11,"msg":"busy"}'; exit 1; }`)
	if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid())); err == nil ||
		!strings.Contains(err.Error(), `network "new-net"`) {
		t.Errorf("a plugin that cannot clean up: %v", err)
	}
	if got := n.calledSorted(t); got != "cluster GC, new GC" {
		t.Errorf("called: %s", got)
	}
	n.does(t, "new", "")
	for _, want := range []string{"cluster GC, new GC", "cluster GC"} {
		if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid())); err != nil {
			t.Error(err)
		}
		if got := n.calledSorted(t); got != want {
			t.Errorf("called: %s, want %s", got, want)
		}
	}
	if in := n.in(t, "new", "GC"); !strings.Contains(in, `"cni.dev/valid-attachments":[]`) {
		t.Errorf("GC of new: %s", in)
	}
}

// TestGCBusy checks that a sandbox with an operation in progress is valid, listed or not.
func TestGCBusy(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new")
	n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
	lock, err := fsx.Acquire(t.Context(), n.engine.deps.LockFile, "c")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(n.engine.GC(t.Context(), n.request(request.GC, "", valid())), lock.Release())
	if err != nil || !n.recorded(t, "c") || strings.Contains(n.called(t), "DEL") {
		t.Errorf("%v", err)
	}
	if in := n.in(t, "new", "GC"); !strings.Contains(in, `{"containerID":"c","ifname":"net1"}`) {
		t.Errorf("GC of new: %s", in)
	}
}

func TestGCWithoutList(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new")
	n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
	if err := n.engine.GC(t.Context(), n.request(request.GC, "", "")); err == nil || n.called(t) != "" ||
		!n.recorded(t, "c") {
		t.Errorf("no list is not an empty list: %v", err)
	}
}

// gcRequest is a GC with the runtime's keys as they are written.
func (n *node) gcRequest(keys string) *request.Request { return n.request(request.GC, "", keys) }

// TestGCKeepsLivePods checks that delegates keep the attachments of live pods: with too short a list a delegate frees
// addresses that are in use. The runtime's list counts for every network, since pods may be older than Multus on this
// node. The ledger counts with its own interface names.
func TestGCKeepsLivePods(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new")
	n.attached(t, "stays", "new", "1.1.0", "/run/netns/x", "now")
	if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid("stays", "older"))); err != nil {
		t.Fatal(err)
	}
	for plugin, keep := range map[string][]string{
		"cluster": {`{"containerID":"older","ifname":"eth0"}`, `{"containerID":"stays","ifname":"eth0"}`},
		"new":     {`{"containerID":"older","ifname":"eth0"}`, `{"containerID":"stays","ifname":"net1"}`},
	} {
		in := n.in(t, plugin, "GC")
		for _, want := range keep {
			if strings.Count(in, want) != 2 { // once in each of the two keys that libcni writes
				t.Errorf("%s does not get %s as a valid attachment: %s", plugin, want, in)
			}
		}
	}
}

// TestGCStopsAtDoubt checks that no delegate gets GC after an error of the first phase, because it is then unknown
// which attachments are alive.
func TestGCStopsAtDoubt(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, n *node){
		"results cannot be listed": func(t *testing.T, n *node) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(n.store.Dir, "results"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a record is damaged": func(t *testing.T, n *node) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(n.store.Dir, "damaged-one"), []byte(`[{"Bytes":`), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a part of a record is damaged": func(t *testing.T, n *node) {
			t.Helper()
			file := filepath.Join(n.store.Dir, "c")
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b = []byte(strings.TrimSuffix(strings.TrimSpace(string(b)), "]") + `,{"Bytes":"e30="}]`)
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a sandbox cannot be freed": func(t *testing.T, n *node) {
			t.Helper()
			n.attached(t, "stale", "new", "1.1.0", "/run/netns/y", "now")
			n.result(t, "new-net", "stale", "net1")
			n.does(t, "new", `test $CNI_COMMAND = DEL && exit 1`)
		},
		"the cluster network is not known": func(t *testing.T, n *node) {
			t.Helper()
			n.engine.deps.Planner = noPlanner{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "new")
			n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
			damage(t, n)
			err := n.engine.GC(t.Context(), n.request(request.GC, "", valid("c", "damaged-one")))
			if got := n.called(t); err == nil || strings.Contains(got, "GC") {
				t.Errorf("%v, called: %s", err, got)
			}
			if noted, err := n.store.Networks(); err != nil || len(noted) != 2 {
				t.Errorf("noted: %v, %v", noted, err)
			}
		})
	}
}

type noPlanner struct{}

func (noPlanner) Plan(context.Context, *request.Request, *config.Plugin) (*plan.Plan, error) {
	return nil, errors.New("no daemon")
}

// TestGCLists checks the forms of the runtime's list. libcni writes null for an empty list, as after a restart of the
// node. Only a missing key is refused.
func TestGCLists(t *testing.T) {
	t.Parallel()
	for keys, freed := range map[string]bool{
		``:                                  false,
		`,"cni.dev/valid-attachments":null`: true,
		`,"cni.dev/attachments":null`:       true,
		`,"cni.dev/valid-attachments":null,"cni.dev/attachments":null`:                                  true,
		`,"cni.dev/valid-attachments":[],"cni.dev/attachments":[]`:                                      true,
		`,"cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]`:                                  false,
		`,"cni.dev/valid-attachments":[{"containerID":"c","ifname":"x"}]`:                               false,
		`,"CNI.dev/Valid-Attachments":[{"containerID":"d","ifname":"x"}]`:                               true,
		valid("d") + `,"cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]`:                     false, // both lists count
		valid() + `,"cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]`:                        false,
		`,"cni.dev/valid-attachments":null,"cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]`: false,
	} {
		t.Run(keys, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "new")
			n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
			err := n.engine.GC(t.Context(), n.gcRequest(keys))
			if (err == nil) != (keys != "") || n.recorded(t, "c") == freed {
				t.Errorf("%v, recorded: %t", err, n.recorded(t, "c"))
			}
		})
	}
}

// TestGCIncompleteList checks that a list with an incomplete entry is refused. If such entries were ignored, GC would
// free live pods. Each entry has a container ID and an interface name (CNI SPEC 1.1 §GC).
func TestGCIncompleteList(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{
		`{}`, `null`, `{"containerID":"","ifname":"eth0"}`, `{"ifname":"eth0"}`,
		`{"containerID":"c"}`, `{"ID":"c"}`,
	} {
		for _, keys := range []string{
			`,"cni.dev/valid-attachments":[` + entry + `]`,
			valid("c") + `,"cni.dev/attachments":[` + entry + `]`,
			`,"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"},` + entry + `]`,
		} {
			t.Run(keys, func(t *testing.T) {
				t.Parallel()
				n := newNode(t, "cluster", "new")
				n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
				n.attached(t, "d", "new", "1.1.0", "/run/netns/x", "now")
				err := n.engine.GC(t.Context(), n.gcRequest(keys))
				if err == nil || fault.ToCNI(err).Code != fault.BadConfig {
					t.Errorf("GC: %v", err)
				}
				if got := n.called(t); got != "" || !n.recorded(t, "c") || !n.recorded(t, "d") {
					t.Errorf("called: %s", got)
				}
			})
		}
	}
}

// TestGCYoungRecord checks that a sandbox whose ADD ends after the start of GC is alive although the runtime does not
// list it. The same holds for a sandbox of which only a result is that young.
func TestGCYoungRecord(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name         string
		record       time.Duration // age at the start of GC
		result, gone bool
	}{
		{"recorded before GC", time.Minute, false, true},
		{"recorded since GC began", 0, false, false},
		{"attached since GC began", time.Minute, true, false},
		{"the clock was set back", -time.Hour, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "new")
			n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
			n.resultOf(t, "new", "c", "net1")
			result := filepath.Join("results", "new-net-c-net1")
			n.age(t, result, time.Minute)
			n.engine.deps.Planner = planning(func() {
				n.age(t, "c", tc.record)
				if tc.result {
					n.age(t, result, 0)
				}
			})
			err := n.engine.GC(t.Context(), n.request(request.GC, "", valid()))
			if err != nil || n.recorded(t, "c") == tc.gone {
				t.Fatalf("recorded: %t, %v", n.recorded(t, "c"), err)
			}
			if in := n.in(t, "new", "GC"); strings.Contains(in, `{"containerID":"c","ifname":"net1"}`) == tc.gone {
				t.Errorf("GC of new: %s", in)
			}
		})
	}
}

// planning is a planner that runs a function first.
type planning func()

func (p planning) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	p()
	return planner{}.Plan(ctx, req, conf)
}

// TestGCRefused checks that a plugin that does not support GC, crashes or is missing neither fails the node's GC nor
// keeps another network from getting GC.
func TestGCRefused(t *testing.T) {
	t.Parallel()
	for name, does := range map[string]string{
		"unknown verb":         `echo '{"code":4,"msg":"unknown CNI_COMMAND: GC"}'; exit 1`,
		"requires a container": `echo '{"code":4,"msg":"missing containerID"}'; exit 1`,
		"old":                  `echo '{"code":1,"msg":"incompatible CNI versions"}'; exit 1`, "crash": `exit 2`, "missing": "",
	} {
		for _, alive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, alive %t", name, alive), func(t *testing.T) {
				t.Parallel()
				n := newNode(t, "cluster", "bad", "good")
				n.attached(t, "c", "bad", "1.1.0", "/run/netns/x", "now")
				n.attached(t, "d", "good", "1.1.0", "/run/netns/x", "now")
				n.does(t, "bad", `test $CNI_COMMAND = GC && { `+does+`; }`)
				list := valid("c", "d")
				if !alive {
					list = valid("d")
				}
				if name == "missing" {
					if err := os.Remove(filepath.Join(n.dir, "bad")); err != nil {
						t.Fatal(err)
					}
				}
				err := n.engine.GC(t.Context(), n.request(request.GC, "", list))
				got := n.called(t)
				if err != nil || !strings.Contains(got, "good GC") || n.recorded(t, "c") != alive {
					t.Errorf("%v, recorded: %t, called: %s", err, n.recorded(t, "c"), got)
				}
			})
		}
	}
}

// TestGCForgets checks that the note of a network without attachments is removed once its plugin is missing, and after
// a day in any case.
func TestGCForgets(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		missing bool
		age     time.Duration
		kept    bool
	}{
		{"its plugin is missing", true, 0, false},
		{"its plugin fails", false, time.Hour, true},
		{"its plugin fails for a day", false, 25 * time.Hour, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "bad")
			n.attached(t, "c", "bad", "1.1.0", "/run/netns/x", "now")
			if err := n.store.Remove("c"); err != nil {
				t.Fatal(err)
			}
			n.does(t, "bad", "exit 3")
			if tc.missing {
				if err := os.Remove(filepath.Join(n.dir, "bad")); err != nil {
					t.Fatal(err)
				}
			}
			then := time.Now().Add(-tc.age)
			files, err := filepath.Glob(n.store.Dir + "-networks/*.json")
			if err != nil || len(files) != 2 {
				t.Fatalf("%v, %v", files, err)
			}
			for _, f := range files {
				if err := os.Chtimes(f, then, then); err != nil {
					t.Fatal(err)
				}
			}
			if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid())); err != nil {
				t.Error(err)
			}
			noted, err := n.store.Networks()
			if err != nil || slices.ContainsFunc(noted, func(n ledger.Network) bool { return n.Name == "bad-net" }) != tc.kept {
				t.Errorf("noted: %v, %v", noted, err)
			}
		})
	}
}

// TestGCHangs checks that a delegate that hangs while one sandbox is freed keeps neither the others from being freed
// nor GC from ending.
func TestGCHangs(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "good", "bad")
	for _, c := range []string{"a-good", "b-bad", "c-good"} {
		n.attached(t, c, c[2:], "1.1.0", "/run/netns/x", "now")
	}
	n.result(t, "cluster-net", "b-bad", "eth0")
	n.result(t, "bad-net", "b-bad", "net1")
	n.age(t, "c-good", time.Hour) // GC starts with the oldest record
	n.does(t, "bad", "exec sleep 1000")
	start := time.Now()
	err := n.engine.GC(t.Context(), n.request(request.GC, "", valid()))
	if err == nil || !strings.Contains(err.Error(), "bad-net") || strings.Contains(err.Error(), "[]") {
		t.Errorf("GC: %v", err)
	}
	if took := time.Since(start); took > GCLimit {
		t.Errorf("it took %s", took)
	}
	if got := n.called(t); !strings.HasPrefix(got, "good DEL c-good") {
		t.Errorf("called: %s", got)
	}
	if n.recorded(t, "a-good") || n.recorded(t, "c-good") || !n.recorded(t, "b-bad") {
		t.Errorf("others were not freed, or the record of the one that hangs was removed: %v", err)
	}
}

// TestGCNetworksHang checks that networks whose plugins hang in GC do not keep another network from getting GC, even in
// the first GC.
func TestGCNetworksHang(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "hangs", "new")
	p := &plan.Plan{ContainerID: "old", Netns: "/run/netns/x", Dirs: plan.Dirs{State: n.store.Dir, Binary: n.dir}}
	for i := range 6 {
		l, err := cniconf.Parse(fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"hangs-%d","type":"hangs"}`, i))
		if err != nil {
			t.Fatal(err)
		}
		p.Attachments = append(p.Attachments, plan.Attachment{Name: l.Name(), IfName: fmt.Sprintf("net%d", i+1), Config: l})
	}
	if err := errors.Join(n.store.Write(ledger.NewRecord(p)), n.store.NoteNetworks(ledger.NewRecord(p))); err != nil {
		t.Fatal(err)
	}
	n.attached(t, "young", "new", "1.1.0", "/run/netns/x", "now")
	n.age(t, "old", time.Hour)
	n.does(t, "hangs", "exec sleep 1000")
	err := n.engine.GC(t.Context(), n.request(request.GC, "", valid("old", "young")))
	got := n.called(t)
	if strings.Count(got, "hangs GC") != 6 || !strings.Contains(got, "new GC") || !strings.Contains(got, "cluster GC") {
		t.Errorf("called: %s", got)
	}
	for i := range 6 {
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("hangs-%d", i)) {
			t.Errorf("GC: %v", err)
		}
	}
	if err == nil || strings.Contains(err.Error(), "GC took longer") {
		t.Errorf("networks were cancelled: %v", err)
	}
}
