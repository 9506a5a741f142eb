package engine

import (
	"errors"
	"strings"
	"testing"

	"multus/internal/engine/request"
	"multus/internal/fsx"
)

func valid(ids ...string) string {
	var list []string
	for _, id := range ids {
		list = append(list, `{"containerID":"`+id+`","ifname":"eth0"}`)
	}
	return `,"cni.dev/valid-attachments":[` + strings.Join(list, ",") + `]`
}

// TestGC shows that GC goes by the runtime's list, and asks every network of the node (behaviour.md D102-D104 [quirk];
// CNI SPEC 1.1 §GC).
func TestGC(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new", "old")
	n.attached(t, "stays", "new", "1.1.0", "/run/netns/x", "now")
	n.attached(t, "stale", "old", "1.0.0", "/run/netns/y", "now")
	if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid("stays"))); err != nil {
		// The plugins of a sandbox without results are asked; these answer.
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
		t.Error("the wrong record went")
	}
	if in := n.in(t, "new", "GC"); !strings.Contains(in, `"cni.dev/valid-attachments":[{"containerID":"stays","ifname":"net1"}]`) {
		t.Errorf("GC of new: %s", in)
	}
}

// TestGCEveryNetwork shows that a network whose last pod has gone is asked until its plugins have cleaned up.
func TestGCEveryNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new")
	n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil {
		t.Fatal(err)
	}
	n.called(t)
	n.does(t, "new", `test $CNI_COMMAND = GC && { echo '{"code":11,"msg":"busy"}'; exit 1; }`)
	if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid())); err == nil || !strings.Contains(err.Error(), `network "new-net"`) {
		t.Errorf("a plugin that cannot clean up: %v", err)
	}
	if got := n.called(t); got != "cluster GC , new GC" {
		t.Errorf("called: %s", got)
	}
	n.does(t, "new", "")
	for _, want := range []string{"cluster GC , new GC", "cluster GC"} {
		if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid())); err != nil {
			t.Error(err)
		}
		if got := n.called(t); got != want {
			t.Errorf("called: %s, want %s", got, want)
		}
	}
	if in := n.in(t, "new", "GC"); !strings.Contains(in, `"cni.dev/valid-attachments":[]`) {
		t.Errorf("GC of new: %s", in)
	}
}

// TestGCBusy: a sandbox that somebody is working on is valid, listed or not.
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
	if err := n.engine.GC(t.Context(), n.request(request.GC, "", "")); err == nil || n.called(t) != "" || !n.recorded(t, "c") {
		t.Errorf("no list is not an empty list: %v", err)
	}
}
