package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/engine/detach"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
)

// TestDelWithoutTrace checks how often a DEL fails for an attachment of which no trace is left (multus-cni#669). It
// fails while the plugin may hold something. It does not fail forever if the plugin returns an error because the
// interface is missing.
func TestDelWithoutTrace(t *testing.T) {
	t.Parallel()
	answers := `echo '{"code":999,"msg":"no such interface"}'; exit 1`
	tests := []struct {
		name, network, does string
		progress            ledger.Progress
		fails               int // -1: always
	}{
		{"ADD was killed, the plugin works", "other", "", ledger.Progress{}, 0},
		{"ADD was killed before it called the plugin", "other", answers, ledger.Progress{}, 0},
		{"ADD was killed before it called the plugin, which crashes", "other", "exit 2", ledger.Progress{}, 0},
		{"ADD was killed, the plugin always returns an error", "other", answers, ledger.Progress{Begun: 2}, detach.Refusals},
		{"the cluster network's plugin always returns an error", "cluster", answers, ledger.Progress{}, detach.Refusals},
		{"ADD was killed, the plugin is always killed", "other", "kill -9 $$", ledger.Progress{Begun: 2}, -1},
		{"ADD was killed, the plugin always crashes", "other", "exit 2", ledger.Progress{Begun: 2}, -1},
		{"ADD had undone all, the plugin returns an error", "other", answers, ledger.Progress{Undone: true}, 0},
		{"ADD had undone all, the plugin crashes", "other", "exit 2", ledger.Progress{Undone: true}, 0},
		{
			"ADD had undone all, the plugin returns code 11", "other", `echo '{"code":11,"msg":"not now"}'; exit 1`,
			ledger.Progress{Undone: true, Begun: 2},
			-1,
		},
		{"ADD had undone all, the plugin is killed", "other", "kill -9 $$", ledger.Progress{Undone: true, Begun: 2}, -1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
			if err := n.store.RecordProgress("c", tc.progress); err != nil {
				t.Fatal(err)
			}
			n.does(t, tc.network, tc.does)
			for try := range detach.Refusals + 3 {
				err := n.engine.Del(t.Context(), n.request(request.Del, "c", ""))
				if got := n.called(t); try == 0 && got != "other DEL c, cluster DEL c" {
					t.Errorf("called: %s", got)
				}
				fails := tc.fails < 0 || try < tc.fails
				if (err != nil) != fails || n.recorded(t, "c") != fails {
					t.Fatalf("DEL %d: %v, recorded %t", try+1, err, n.recorded(t, "c"))
				}
				if fails && !strings.Contains(err.Error(), tc.network+"-net") {
					t.Errorf("%v does not name the network", err)
				}
			}
		})
	}
}

// TestBegunIsRecorded checks that the first failure records how far ADD got, before the results that show it are
// deleted. At a later DEL they are gone, and an attachment that holds something would be treated as one that was never
// begun.
func TestBegunIsRecorded(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
	n.result(t, "cluster-net", "c", "eth0")
	other := n.result(t, "other-net", "c", "net1")
	n.does(t, "other", "exit 2")
	n.does(t, "cluster", `grep -q '"begun":2' `+filepath.Join(n.store.Dir, "c")+` || echo too late >>`+filepath.Join(n.dir,
		"log"))
	for try := range detach.Refusals + 3 {
		if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil || !n.recorded(t, "c") {
			t.Fatalf("DEL %d: %v, recorded %t", try+1, err, n.recorded(t, "c"))
		}
		if got := n.called(t); try == 0 && got != "other DEL c, cluster DEL c" {
			t.Errorf("called: %s", got)
		}
		_ = os.Remove(other) // and after the node's restart the namespace is gone, too
	}
}

// TestLostResults checks a DEL after libcni's results were lost. libcni does not sync its results, so that after a
// power loss they do not show what was begun.
func TestLostResults(t *testing.T) {
	t.Parallel()
	for does, fails := range map[string]int{
		"": 0, "exit 2": detach.Refusals + 3, `echo '{"code":999,"msg":"no such interface"}'; exit 1`: detach.Refusals,
	} {
		t.Run(does, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "before")
			n.does(t, "other", does)
			for try := range detach.Refusals + 3 {
				err := n.engine.Del(t.Context(), n.request(request.Del, "c", ""))
				if want := try < fails; (err != nil) != want || n.recorded(t, "c") != want {
					t.Fatalf("DEL %d: %v, recorded %t", try+1, err, n.recorded(t, "c"))
				}
			}
		})
	}
}
