package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/testutil/node"
)

// planned makes plans of a fixed list of attachments, as the daemon does for the plugin, and writes no status.
type planned struct{ attachments []plan.Attachment }

func (p planned) Plan(_ context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	return &plan.Plan{
		CNIVersion: conf.CNIVersion, ContainerID: req.ContainerID, Netns: req.Netns,
		Pod:  request.Pod{Namespace: req.Args.Get(request.PodNamespace), Name: req.Args.Get(request.PodName)},
		Dirs: plan.Dirs{State: conf.CNIDir, Binary: conf.BinDir}, Attachments: p.attachments,
	}, nil
}

func (planned) Publish(context.Context, *publish.Report) error { return nil }

// noInterfaces is a namespace without interfaces.
type noInterfaces struct{}

func (noInterfaces) CheckFree(*ledger.Record) error { return nil }

func (noInterfaces) HasInterface(string, string) (bool, error) { return false, nil }

func (noInterfaces) Interfaces(string) ([]publish.Interface, error) { return nil, nil }

// TestAllocated limits the memory that one ADD allocates in the plugin, from the request to the result. The delegates
// are fake plugins, and the plan is given. The limits are a tenth above what was measured. With the race
// detector, which empties pools at random, more is allocated.
func TestAllocated(t *testing.T) { //nolint:paralleltest // the memory of all goroutines is counted
	limits := map[int]uint64{0: 51_000, 2: 138_000}
	if underRace() {
		limits = map[int]uint64{0: 100_000, 2: 262_000}
	}
	for networks, limit := range limits {
		add := newAdd(t, networks)
		add(t) // the first ADD fills caches of types and records the networks
		const runs = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			add(t)
		}
		runtime.ReadMemStats(&after)
		got := (after.TotalAlloc - before.TotalAlloc) / runs
		t.Logf("%d networks: %d bytes for one ADD", networks, got)
		if got > limit {
			t.Errorf("%d networks: one ADD allocates %d bytes, want at most %d", networks, got, limit)
		}
	}
}

// underRace reports whether this program was built with the race detector.
func underRace() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// BenchmarkAdd is the part of an ADD that TestAllocated measures, with the time of the delegates.
func BenchmarkAdd(b *testing.B) {
	for _, networks := range []int{0, 2} {
		b.Run(fmt.Sprintf("%d networks", networks), func(b *testing.B) {
			add := newAdd(b, networks)
			b.ReportAllocs()
			for b.Loop() {
				add(b)
			}
		})
	}
}

// newAdd returns a function that attaches a new container to the cluster network and to more networks.
func newAdd(tb testing.TB, networks int) func(testing.TB) {
	tb.Helper()
	dir := tb.TempDir()
	must(tb, os.Link(filepath.Join(node.Binaries(tb), "fakeplugin"), filepath.Join(dir, "noop")))
	var p planned
	for i := range networks + 1 {
		name := fmt.Sprintf("n%d", i)
		l, err := cniconf.Parse(networkList(tb, name, nothing))
		must(tb, err)
		a := plan.Attachment{Name: name, IfName: "net" + name[1:], Config: l, Primary: i == 0}
		if a.Primary {
			a.IfName = "eth0"
		}
		p.attachments = append(p.attachments, a)
	}
	e := engine.New(engine.Deps{
		Planner: p, Publisher: p, Boot: "now", LockFile: filepath.Join(dir, "run", "locks"), Netns: noInterfaces{},
		Log: slog.New(slog.DiscardHandler),
	})
	conf, err := json.Marshal(map[string]string{
		"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "clusterNetwork": "n0",
		"cniDir": filepath.Join(dir, "state"), "binDir": dir,
	})
	must(tb, err)
	n := 0
	return func(tb testing.TB) {
		tb.Helper()
		n++
		_, err := e.Add(tb.Context(), &request.Request{
			Command: request.Add, ContainerID: fmt.Sprintf("c%d", n), IfName: "eth0",
			Netns: filepath.Join(dir, "netns"), Path: dir, Config: conf,
			Args: request.Args{{request.PodNamespace, namespace}, {request.PodName, fmt.Sprintf("p%d", n)}},
		})
		must(tb, err)
	}
}
