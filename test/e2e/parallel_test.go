package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/node"
)

// parallel returns a node with a cluster network and the networks a to d, whose plugins are fake. over is merged into
// the fake object of a network, more into its configuration.
func parallel(t *testing.T, kind node.Kind, concurrency int, over, more map[string]map[string]any) *fakes {
	t.Helper()
	f := newFakes(t, kind, map[string]any{"cniVersion": "1.1.0", "attachConcurrency": concurrency}, nil)
	for i, name := range []string{"a", "b", "c", "d"} {
		fake := f.Fake(t, "fake-"+name)
		fake["result"] = json.RawMessage(result(fmt.Sprintf("10.%d.0.2/24", 3+i)))
		maps.Copy(fake, over[name])
		conf := map[string]any{"cniVersion": "1.1.0", "type": "fake-" + name, "fake": fake}
		maps.Copy(conf, more[name])
		f.define(t, name, conf)
	}
	return f
}

// meet returns a fake object that makes the plugins of size networks wait for each other at ADD. A plugin fails if the
// others do not come within wait.
func meet(t *testing.T, size int, wait string) map[string]any {
	t.Helper()
	return map[string]any{"meet": map[string]any{"ADD": map[string]any{"dir": t.TempDir(), "size": size, "wait": wait}}}
}

// TestParallel checks that with attachConcurrency independent networks are attached at the same time, after the cluster
// network. A network whose master is an interface of another one is attached after that one. Result, record and DEL are
// the same as without the key.
func TestParallel(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			together := meet(t, 3, "")
			f := parallel(t, kind, 3, map[string]map[string]any{"a": together, "c": together, "d": together},
				map[string]map[string]any{"b": {"master": "net1", "linkInContainer": true}})
			p, n := f.pod(t, "a,b,c,d"), 0
			res, err := f.Add(t, f.Conf(), p)
			if err != nil {
				t.Fatal(err)
			}
			if got := res.IPs[0].Address.String(); got != "10.244.0.2/24" {
				t.Errorf("result is not the cluster network's: %s", got)
			}
			calls := f.calls(t, &n)
			slices.Sort(calls[2:5])
			want := []string{"cluster ADD eth0", "chained ADD eth0", "a ADD net1", "c ADD net3", "d ADD net4", "b ADD net2"}
			if d := cmp.Diff(want, calls); d != "" {
				t.Errorf("ADD (-want +got):\n%s", d)
			}
			if err := f.Del(t, f.Conf(), p); err != nil {
				t.Error(err)
			}
			want = []string{"d DEL net4", "c DEL net3", "b DEL net2", "a DEL net1", "chained DEL eth0", "cluster DEL eth0"}
			if d := cmp.Diff(want, f.calls(t, &n)); d != "" {
				t.Errorf("DEL (-want +got):\n%s", d)
			}
			if left := f.Left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestParallelIsLimited checks that no more than attachConcurrency plugins run at a time, and that without the key only
// one does (NPWG v1.3 §7.3). Three plugins that wait for each other then fail, and what was begun is undone in reverse
// order.
func TestParallelIsLimited(t *testing.T) {
	for concurrency, begun := range map[int]string{2: "b DEL net2, a DEL net1", 1: "a DEL net1", 0: "a DEL net1"} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			together := meet(t, 3, "300ms")
			f := parallel(t, node.Thin, concurrency, map[string]map[string]any{"a": together, "b": together, "c": together}, nil)
			p, n := f.pod(t, "a,b,c,d"), 0
			_, err := f.Add(t, f.Conf(), p)
			if err == nil || !strings.Contains(err.Error(), "default/a") ||
				!strings.Contains(err.Error(), fmt.Sprintf("%d of 3 came", max(1, concurrency))) {
				t.Fatal(err)
			}
			calls := f.calls(t, &n)
			undo := slices.DeleteFunc(calls, func(c string) bool { return strings.Contains(c, " ADD ") })
			if got := strings.Join(undo, ", "); got != begun+", chained DEL eth0, cluster DEL eth0" {
				t.Errorf("undone: %s", got)
			}
			if err := f.Del(t, f.Conf(), p); err != nil {
				t.Error(err)
			}
			if left := f.Left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// fails returns a fake object that makes ADD of a plugin fail.
func fails(msg string) map[string]any {
	return map[string]any{"fail": map[string]any{"ADD": map[string]any{"code": 100, "msg": msg}}}
}

// TestParallelFailure checks that two networks that fail at the same time are both named in the error, in the order of
// the list. Networks after them are not begun, and those in progress are undone.
func TestParallelFailure(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			a, b, c := fails("first"), fails("second"), map[string]any{}
			for k, v := range meet(t, 3, "") {
				a[k], b[k], c[k] = v, v, v
			}
			f := parallel(t, kind, 8, map[string]map[string]any{"a": a, "b": b, "c": c},
				map[string]map[string]any{"d": {"master": "net3"}})
			p, n := f.pod(t, "a,b,c,d"), 0
			_, err := f.Add(t, f.Conf(), p)
			if err == nil || !strings.Contains(err.Error(), "first") || !strings.Contains(err.Error(), "second") ||
				!strings.Contains(err.Error(), "default/a") {
				t.Errorf("ADD: %v", err)
			}
			calls := f.calls(t, &n)
			undo := calls[len(calls)-5:]
			want := []string{"c DEL net3", "b DEL net2", "a DEL net1", "chained DEL eth0", "cluster DEL eth0"}
			if d := cmp.Diff(want, undo); d != "" || slices.Contains(calls, "d ADD net4") {
				t.Errorf("undo (-want +got):\n%s\nof %v", d, calls)
			}
			if err := f.Del(t, f.Conf(), p); err != nil {
				t.Error(err)
			}
			if left := f.Left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
