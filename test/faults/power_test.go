package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"multus/internal/fsx"
	hostnode "multus/internal/node"
	"multus/internal/testutil/disk"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// powerSite is a site whose ledger is on a disk that loses its power. The reservations of host-local are on another
// disk and stay, which is the worst case.
type powerSite struct {
	*site
	disk *disk.Disk
}

func newPowerSite(t *testing.T, kind node.Kind, v variant) *powerSite {
	t.Helper()
	d := disk.New(t)
	return &powerSite{newSiteAt(t, node.Options{Kind: kind, StateDir: filepath.Join(d.Dir, "multus")}, v), d}
}

// losePower cuts the power of the disk and mounts it again. Processes and namespaces are gone.
func (s *powerSite) losePower(t *testing.T) {
	t.Helper()
	s.disk.Cut(t)
	s.StopDaemon(t)
	// The delegates of a killed plugin run until here. What they reserve in the meantime counts as well.
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	l, err := fsx.Acquire(ctx, hostnode.LockFile, s.pod.ContainerID)
	check(t, err)
	check(t, l.Close())
	check(t, testnet.Delete(s.pod.Path))
	s.disk.Mount(t)
}

// whole checks that no file of the ledger is truncated. It skips libcni's results, which libcni writes, and hidden
// files, which are not yet renamed.
func (s *powerSite) whole(t *testing.T, r *row, what string) {
	t.Helper()
	check(t, filepath.WalkDir(s.disk.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") ||
			filepath.Dir(path) == filepath.Join(s.State(), "results") {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && !json.Valid(b) {
			r.bad(t, &r.records, 1, "%s: %s holds %d bytes that are no JSON", what, path, len(b))
		}
		return err
	}))
}

// boot does what a runtime does after a power loss: DEL of the earlier sandbox, or GC if the runtime has lost the
// sandbox, too. The definitions are hidden. Then nothing may be left, and the next sandbox of the pod must work.
func (s *powerSite) boot(t *testing.T, r *row, lost bool, what string) {
	t.Helper()
	r.try()
	s.whole(t, r, what)
	if s.kind == node.Thick {
		s.StartDaemon(t)
	}
	back := s.away(t)
	if lost {
		if err := s.gc(t, nil); err != nil {
			r.bad(t, &r.stuck, 1, "%s: GC: %v", what, err)
		}
	} else {
		s.del(t, r, what)
	}
	back()
	s.clean(t, r, what)
	s.newPod(t)
	if err := s.call(t, "ADD"); err != nil {
		r.bad(t, &r.stuck, 1, "%s: next ADD: %v", what, err)
	} else {
		s.checkStatus(t, r, what)
	}
	s.del(t, r, what+", next sandbox")
	s.clean(t, r, what+", next sandbox")
}

// chooseForPower leaves out of a short run the points between which no file is written and no address is reserved.
func chooseForPower(points []point) []point {
	if long() {
		return points
	}
	return slices.DeleteFunc(points, func(p point) bool {
		file := strings.HasPrefix(p.name, "fsx.") && p.pass < 3 || strings.HasPrefix(p.name, "ledger.")
		return !file && (p.name != "exec.started" || p.pass%2 == 0)
	})
}

// TestPowerLoss cuts the node's power at every named point of ADD, DEL and GC, and after their end. Data that was not
// synced is lost. It checks that nothing of the pod is lost with it.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for k, kind := range node.Kinds {
		for i, v := range variants[2:] {
			if !long() && i%len(node.Kinds) == k {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", kind, v.name), func(t *testing.T) {
				t.Parallel()
				s := newPowerSite(t, kind, v)
				s.fake(t, "bad", map[string]any{"fail": map[string]any{"ADD": map[string]any{"code": 100, "msg": "no"}}})
				r := table.row(fmt.Sprintf("power lost at every point, %s, %s", kind, v.name))
				for _, verb := range verbs {
					seldom := verb.name == "ADD after ADD" || verb.name == "DEL without a record"
					if verb.name == "CHECK" || seldom && !long() {
						continue // CHECK writes nothing
					}
					s.losePowerIn(t, r, verb, true)
					if verb.name == "ADD" || long() {
						// Recording networks syncs the disk, which would hide a missing sync before it.
						s.losePowerIn(t, r, verb, false)
					}
				}
			})
		}
	}
}

// losePowerIn cuts the power after a verb and at its points. Before each call everything is synced. With again the
// networks are recorded again at each call. Without it they are recorded before the points are traced.
func (s *powerSite) losePowerIn(t *testing.T, r *row, verb verb, again bool) {
	t.Helper()
	first := s.removeNetworks
	if !again {
		first = func(*testing.T) {}
		verb.before(t, s.site)
		_ = verb.call(t, s.site) // this verb may fail on purpose
		s.del(t, r, verb.name)
	}
	first(t)
	verb.before(t, s.site)
	s.disk.Sync(t)
	points := s.trace(t, verb.name, func(env ...string) error { return verb.call(t, s.site, env...) })
	s.losePower(t)
	s.boot(t, r, verb.name == "DEL", verb.name+" was done")
	for n, p := range chooseForPower(points) {
		first(t)
		verb.before(t, s.site)
		s.disk.Sync(t)
		if err := verb.call(t, s.site, p.env()); !errors.Is(err, errKilled) {
			t.Errorf("%s: not killed: %v", p, err)
		}
		s.losePower(t)
		s.boot(t, r, n%2 == 1, p.String())
	}
}

// TestPowerHarness tests the harness: the pod is lost if the files of the ledger or its directory are not synced.
func TestPowerHarness(t *testing.T) {
	t.Parallel()
	s := newPowerSite(t, node.Thin, two)
	for _, tc := range []struct {
		name, env string
		red       bool
	}{
		{"all synced", "", false},
		{"no file is synced", "fsx.sync=skip", true},
		{"no directory is synced", "fsx.syncdir=skip", true},
	} {
		r := &row{fault: tc.name, expected: tc.red}
		s.disk.Sync(t)
		if err := s.call(t, "ADD", "MULTUS_FAILPOINT="+tc.env); err != nil {
			t.Fatalf("ADD: %v", err)
		}
		s.prev = nil
		s.losePower(t)
		s.boot(t, r, false, tc.name)
		if got := r.sum() > 0; got != tc.red {
			t.Errorf("%s: the harness counts %d", tc.name, r.sum())
		}
		if tc.red && r.addresses == 0 {
			t.Errorf("%s: no leaked address is seen", tc.name)
		}
	}
}

// TestPowerLossDaemon cuts the power while the daemon writes the runtime's configuration and its copy for the next
// boot. Each file is the old or the new one, and the daemon works with them.
func TestPowerLossDaemon(t *testing.T) {
	t.Parallel()
	d := disk.New(t)
	s := &powerSite{newSiteAt(t, node.Options{Kind: node.Thick, Dir: filepath.Join(d.Dir, "node")}, variants[1]), d}
	r := table.row("power lost while the daemon writes")
	slot := []string{filepath.Join(s.Dir, "etc", "00-multus.conf"), filepath.Join(s.State()+"-slot", "00-multus.conf")}
	before := s.Generated(t)
	for _, name := range []string{"fsx.created", "fsx.written", "fsx.synced", "fsx.renamed"} {
		for pass := range slot {
			what := fmt.Sprintf("%s:%d", name, pass+1)
			r.try()
			s.StopDaemon(t)
			d.Sync(t)
			s.DaemonEnv = []string{"MULTUS_FAILPOINT=" + what}
			s.StartDaemon(t)
			s.changePrimary(t)
			p := s.Daemon()
			waitFor(t, "the daemon dies at "+what, func() bool { return p.Signal(syscall.Signal(0)) != nil })
			d.Cut(t)
			s.StopDaemon(t)
			d.Mount(t)
			var found [][]byte
			for _, path := range slot {
				b, err := os.ReadFile(path)
				check(t, err)
				found = append(found, b)
			}
			s.DaemonEnv = nil
			s.StartDaemon(t)
			var after []byte
			waitFor(t, what+": the new configuration is written", func() bool {
				after = s.Generated(t)
				return !bytes.Equal(after, before)
			})
			for i, b := range found {
				if !bytes.Equal(b, before) && !bytes.Equal(b, after) {
					r.bad(t, &r.records, 1, "%s: %s holds %q", what, slot[i], b)
				}
			}
			before = after
		}
	}
}

// changePrimary changes the configuration of the cluster network permanently, so that the daemon's configuration
// changes, too.
func (s *site) changePrimary(t *testing.T) {
	t.Helper()
	file, ok := s.conf["clusterNetwork"].(string)
	if !ok {
		t.Fatal("no cluster network")
	}
	b, err := os.ReadFile(file)
	check(t, err)
	const one, other = `"portMappings":true`, `"bandwidth":true`
	if changed := bytes.ReplaceAll(b, []byte(one), []byte(other)); !bytes.Equal(changed, b) {
		b = changed
	} else {
		b = bytes.ReplaceAll(b, []byte(other), []byte(one))
	}
	check(t, fsx.WriteAtomic(file, b, 0o644))
}

// TestPowerLossReports cuts the power while the plugin writes reports because the daemon is down, in a directory on
// disk. Reports are not synced, because their sandboxes are lost with them. What is left of a report must not prevent
// the network status of the pod's next sandbox.
func TestPowerLossReports(t *testing.T) {
	t.Parallel()
	d := disk.New(t)
	o := node.Options{Kind: node.Thick, Dir: filepath.Join(d.Dir, "node"), Conf: map[string]any{"plainPods": "local"}}
	s := &powerSite{newSiteAt(t, o, variants[1]), d}
	r := table.row("power lost while a report is left")
	s.StopDaemon(t)
	points := s.trace(t, "ADD", func(env ...string) error { return s.call(t, "ADD", env...) })
	s.del(t, r, "trace")
	from := slices.IndexFunc(points, func(p point) bool { return p.name == "leave.before" })
	if from < 0 {
		t.Fatalf("no report is left: %v", points)
	}
	for _, p := range points[from:] {
		r.try()
		d.Sync(t)
		_ = s.call(t, "ADD", p.env())
		s.losePower(t)
		s.StartDaemon(t)
		s.del(t, r, p.String())
		s.newPod(t)
		if err := s.call(t, "ADD"); err != nil {
			r.bad(t, &r.stuck, 1, "%s: next ADD: %v", p, err)
		} else {
			s.checkStatus(t, r, p.String())
		}
		waitFor(t, p.String()+": no report waits", func() bool {
			files, err := filepath.Glob(filepath.Join(s.SocketDir(), "reports", "*.json"))
			return err == nil && len(files) == 0
		})
		s.del(t, r, p.String()+", next sandbox")
		s.StopDaemon(t)
	}
}
