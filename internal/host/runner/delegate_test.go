package runner

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	wirev1 "multus/wire/v1"
)

// TestDelegated checks which requests a runner refuses before it changes anything (behaviour R21, R22), and that
// nothing is left to delete in a sandbox without a record.
func TestDelegated(t *testing.T) {
	t.Parallel()
	f := newFakeDaemon(t, "", 0)
	r, state := f.runner(t, time.Hour)
	store := &ledger.Store{Dir: state, Log: slog.New(slog.DiscardHandler)}
	recordOf(t, store, "c1", request.Args{{request.PodNamespace, "team"}, {request.PodName, "web"}, {request.PodUID, "u"}})
	netns := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ command, pod, container, netns, want string }{
		"ADD without a record":      {"ADD", "web", "c2", "", "cannot be changed"},
		"CHECK without a record":    {"CHECK", "web", "c2", "", "cannot be changed"},
		"DEL without a record":      {"DEL", "web", "c2", "", ""},
		"a path":                    {"DEL", "web", "../c1", "", "invalid characters"},
		"no container":              {"DEL", "web", "", "", "container ID"},
		"another pod":               {"DEL", "db", "c1", "", "is one of pod team/web"},
		"another namespace":         {"ADD", "web", "c1", netns, "is not the network namespace of container c1"},
		"no namespace":              {"ADD", "web", "c1", netns + "x", "no net namespace found"},
		"another command":           {"GC", "web", "c1", "", "unknown cmd type"},
		"DEL, the sandbox is going": {"DEL", "web", "c1", netns + "x", ""},
	} {
		job := &wirev1.DelegateJob{
			Command: tc.command, ContainerID: tc.container, Netns: tc.netns, IfName: "net1",
			Pod: wirev1.Pod{Namespace: "team", Name: tc.pod, UID: "u"},
		}
		result, err := r.delegated(t.Context(), job, "", store)
		if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) || result != nil {
			t.Errorf("%s: %s, %v, want %q", name, result, err, tc.want)
		}
	}
}

// TestDelegatedReported checks that a runner reports each result, also of a request that it cannot execute.
func TestDelegatedReported(t *testing.T) {
	t.Parallel()
	f := newFakeDaemon(t, `{"pods":[],"delegate":[{"id":"a","command":"DEL","containerID":"c1"},`+
		`{"id":"b","command":"GC","containerID":"c1"}]}`, 0)
	r, _ := f.runner(t, time.Hour)
	f.until(t, r, func() bool { return len(f.delegated) >= 2 })
	f.mu.Lock()
	defer f.mu.Unlock()
	failed := map[string]bool{}
	for _, d := range f.delegated {
		failed[d.ID] = d.Error != nil
	}
	if failed["a"] || !failed["b"] {
		t.Errorf("%+v", f.delegated)
	}
}

// TestSameNamespace checks that a network namespace may have several paths.
func TestSameNamespace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	netns, link := filepath.Join(dir, "x"), filepath.Join(dir, "y")
	if err := os.WriteFile(netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(netns, link); err != nil {
		t.Fatal(err)
	}
	record := ledger.NewRecord(&plan.Plan{ContainerID: "c", Netns: netns})
	for _, path := range []string{"", netns, link} {
		if err := isOf(record, &wirev1.DelegateJob{Netns: path}); err != nil {
			t.Error(err)
		}
	}
}
