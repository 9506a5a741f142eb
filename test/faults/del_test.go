package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"multus/internal/engine"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	hostnode "multus/internal/node"
	"multus/internal/source/file"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

func (s *site) record() string { return filepath.Join(s.State(), s.pod.ContainerID) }

// results returns the files that libcni has cached for the site's pod.
func (s *site) results(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.State(), "results", "*"))
	check(t, err)
	if len(files) == 0 {
		t.Fatal("no results of libcni")
	}
	return files
}

func (s *site) overwrite(t *testing.T, paths []string, change func([]byte) []byte) {
	t.Helper()
	for _, path := range paths {
		b, err := os.ReadFile(path)
		check(t, err)
		check(t, os.WriteFile(path, change(b), 0o600))
	}
}

func half(b []byte) []byte { return b[:len(b)/2] }

func garbage([]byte) []byte { return []byte("\x00\xff not json") }

func nothing([]byte) []byte { return nil }

// TestDelAlone checks that one DEL frees everything although other sources of information have changed or are gone. In
// each case the definitions are missing and, with Thick, the daemon is down.
func TestDelAlone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		damage func(t *testing.T, s *site)
	}{
		{"nothing else changed", func(*testing.T, *site) {}},
		{"namespace gone", func(t *testing.T, s *site) { check(t, testnet.Delete(s.pod.Path)) }},
		{"path empty", func(t *testing.T, s *site) { check(t, testnet.Delete(s.pod.Path)); s.pod.Path = "" }},
		{"namespace empty", func(t *testing.T, s *site) {
			// Another namespace at the same path, as after a reboot.
			path := s.pod.Path
			check(t, testnet.Delete(path))
			s.pod.NS = testnet.New(t)
			check(t, os.Symlink(s.pod.Path, path))
			s.pod.Path = path
		}},
		{"no previous result", func(_ *testing.T, s *site) { s.prev = nil }},
		{"annotations gone", func(_ *testing.T, s *site) { s.pod.Annotations = nil }},
		{"annotations changed", func(_ *testing.T, s *site) { s.pod.Annotations = map[string]string{networksKey: "]["} }},
		{"cluster network deleted", func(t *testing.T, s *site) { check(t, os.Remove(s.conf["clusterNetwork"].(string))) }},
		{"results missing", func(t *testing.T, s *site) { check(t, os.RemoveAll(filepath.Join(s.State(), "results"))) }},
		{"results empty", func(t *testing.T, s *site) { s.overwrite(t, s.results(t), nothing) }},
		{"results truncated", func(t *testing.T, s *site) { s.overwrite(t, s.results(t), half) }},
		{"results garbage", func(t *testing.T, s *site) { s.overwrite(t, s.results(t), garbage) }},
		{"record missing", func(t *testing.T, s *site) { check(t, os.Remove(s.record())) }},
		{"record empty", func(t *testing.T, s *site) { s.overwrite(t, []string{s.record()}, nothing) }},
		{"record garbage", func(t *testing.T, s *site) { s.overwrite(t, []string{s.record()}, garbage) }},
		{"one element damaged", func(t *testing.T, s *site) {
			s.overwrite(t, []string{s.record()}, func(b []byte) []byte {
				var elements []json.RawMessage
				check(t, json.Unmarshal(b, &elements))
				elements[1] = json.RawMessage(`{"Bytes":7}`)
				b, err := json.Marshal(elements)
				check(t, err)
				return b
			})
		}},
	}
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		r := table.row(fmt.Sprintf("DEL alone with the ledger, %s", kind))
		s := newSite(t, kind, variants[3], map[string]any{"daemonTimeout": "1s"})
		primary, err := os.ReadFile(s.conf["clusterNetwork"].(string))
		check(t, err)
		for _, tc := range tests {
			s.newPod(t)
			s.attach(t)
			back := s.away(t)
			s.StopDaemon(t)
			tc.damage(t, s)
			r.try()
			s.delOnce(t, r, tc.name)
			back()
			check(t, os.WriteFile(s.conf["clusterNetwork"].(string), primary, 0o644))
			s.cleanAside(t, r, tc.name)
			if kind == node.Thick {
				s.StartDaemon(t)
			}
		}
	})
}

func (s *site) delOnce(t *testing.T, r *row, what string) {
	t.Helper()
	if err := s.call(t, "DEL"); err != nil {
		r.bad(t, &r.stuck, 1, "%s: DEL: %v", what, err)
	}
}

// cleanAside is like clean, after a record was damaged: the damaged record is kept once.
func (s *site) cleanAside(t *testing.T, r *row, what string) {
	t.Helper()
	aside := filepath.Join(s.State(), "damaged")
	kept, err := os.ReadDir(aside)
	if err == nil && len(kept) > 1 {
		r.bad(t, &r.records, len(kept), "%s: kept aside %d times", what, len(kept))
	}
	check(t, os.RemoveAll(aside))
	s.clean(t, r, what)
}

// TestDelTruncatedRecord truncates the record at a sample of all lengths.
func TestDelTruncatedRecord(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thin, variants[3], nil)
	r := table.row("record cut off")
	samples := 8
	if long() {
		samples = 200
	}
	for i := range samples {
		s.attach(t)
		info, err := os.Stat(s.record())
		check(t, err)
		at := i * int(info.Size()) / samples
		check(t, os.Truncate(s.record(), int64(at)))
		back := s.away(t)
		r.try()
		s.delOnce(t, r, fmt.Sprintf("cut off at %d of %d", at, info.Size()))
		back()
		s.cleanAside(t, r, fmt.Sprintf("cut off at %d of %d", at, info.Size()))
	}
}

// TestDelMissingPlugin checks a DEL while the binary of one of three networks is missing. The other two are freed at
// once. With or without the namespace, DEL fails as long as something is held, and succeeds when the binary is back.
func TestDelMissingPlugin(t *testing.T) {
	t.Parallel()
	for _, kind := range node.Kinds {
		for _, gone := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/gone=%v", kind, gone), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, kind, variants[3], nil)
				r := table.row("plugin missing at DEL")
				r.try()
				mine := filepath.Join(s.Dir, "plugins", "mybridge")
				check(t, os.Symlink(filepath.Join(s.BinDirs[1], "bridge"), mine))
				s.define(t, "plain", fmt.Sprintf(`{"cniVersion":"1.1.0","type":"mybridge","bridge":"br1","ipam":%s}`,
					s.ipam("198.51.100.0/24")))
				s.attach(t)
				check(t, os.Rename(mine, mine+".away"))
				if gone {
					check(t, testnet.Delete(s.pod.Path))
				}
				for i := range delTries {
					err := s.call(t, "DEL")
					if err == nil {
						r.bad(t, &r.addresses, 1, "DEL %d succeeds while an address is held: %v", i, s.Left(t))
					} else if !strings.Contains(err.Error(), "mybridge") {
						t.Errorf("the plugin is not named: %v", err)
					}
				}
				if left := interfaces(t, s.pod.NS); len(left) > 1 {
					r.bad(t, &r.interfaces, len(left)-1, "the others are not freed: %v", left)
				}
				check(t, os.Rename(mine+".away", mine))
				s.delOnce(t, r, "plugin is back")
				s.clean(t, r, "plugin is back")
			})
		}
	}
}

// TestDelFailingPlugin checks a DEL at which one delegate fails. All other attachments are deleted, the error is
// returned, and the next DEL succeeds.
func TestDelFailingPlugin(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newSite(t, kind, variants[3], nil)
		s.variant.networks, s.variant.names = `[{"name":"plain"},{"name":"faulty"},{"name":"list"}]`, nil
		s.script(t, "faulty", `[ "$CNI_COMMAND" = DEL ] && [ -e "$dir/faulty" ] && { echo '{"code":100,"msg":"out of order"}'; exit 1; }`)
		s.newPod(t)
		r := table.row("delegate fails at DEL")
		r.try()
		s.attach(t)
		s.flag(t, "faulty", true)
		for range 2 {
			if err := s.call(t, "DEL"); err == nil || !strings.Contains(err.Error(), "out of order") {
				t.Errorf("DEL: %v, want the delegate's error", err)
			}
		}
		if left := interfaces(t, s.pod.NS); len(left) > 0 {
			r.bad(t, &r.interfaces, len(left), "not every other attachment is deleted: %v", left)
		}
		if _, err := os.Stat(s.record()); err != nil {
			r.bad(t, &r.records, 1, "the record was removed: %v", err)
		}
		s.flag(t, "faulty", false)
		s.delOnce(t, r, "the delegate works again")
		s.clean(t, r, "the delegate works again")
	})
}

// TestBackground checks that a process that a plugin leaves running, as some DHCP clients do, does not delay a later
// DEL.
func TestBackground(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thin, variants[3], nil)
	s.variant.networks = `[{"name":"plain"},{"name":"helper"}]`
	s.script(t, "helper", `[ "$CNI_COMMAND" = ADD ] && { setsid sleep 60 >/dev/null 2>&1 </dev/null & echo $! >"$dir/pid"; }`)
	s.newPod(t)
	r := table.row("delegate leaves a process behind")
	r.try()
	s.attach(t)
	defer killFile(t, filepath.Join(s.Dir, "pid"))
	start := time.Now()
	s.delOnce(t, r, "process left behind")
	if took := time.Since(start); took > 5*time.Second {
		r.bad(t, &r.locks, 1, "DEL took %s", took)
	}
	s.clean(t, r, "process left behind")
}

// killFile kills the process whose PID a script has written. It reports whether the process was alive.
func killFile(t *testing.T, path string) (alive bool) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	var pid int
	_, err = fmt.Sscan(string(b), &pid)
	check(t, err)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	dead := err != nil || bytes.Contains(stat, []byte(") Z ")) || bytes.Contains(stat, []byte(") X "))
	return syscall.Kill(pid, syscall.SIGKILL) == nil && !dead
}

// TestTerminated checks the cancellation of ADD with SIGTERM: the running delegate is killed with all its processes,
// what was begun is undone, and the error says so.
func TestTerminated(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newSite(t, kind, variants[3], nil)
		s.variant.networks = `[{"name":"plain"},{"name":"slow"}]`
		s.script(t, "slow", `[ "$CNI_COMMAND" = ADD ] && { sleep 60 & echo $! >"$dir/pid.new"; mv "$dir/pid.new" "$dir/pid"; wait; }`)
		s.newPod(t)
		r := table.row("plugin terminated in ADD")
		r.try()
		p := s.start(t, s.pod, "ADD")
		pid := filepath.Join(s.Dir, "pid")
		waitFor(t, "the delegate runs", func() bool { _, err := os.Stat(pid); return err == nil })
		check(t, p.Process.Signal(syscall.SIGTERM))
		err := p.end()
		if err == nil || !strings.Contains(err.Error(), "slow") {
			t.Errorf("ADD: %v, want an error that names the network", err)
		}
		if killFile(t, pid) {
			r.bad(t, &r.stuck, 1, "a process of the delegate is still running")
		}
		if left := interfaces(t, s.pod.NS); len(left) > 0 {
			r.bad(t, &r.interfaces, len(left), "not undone: %v", left)
		}
		s.delOnce(t, r, "DEL")
		s.clean(t, r, "DEL")
	})
}

// local runs the engine in this process with a short deadline, because the real limits are minutes.
func (s *site) local(t *testing.T, limit time.Duration, command string) error {
	t.Helper()
	src := file.New(file.Options{Dir: s.networks, StateDir: filepath.Join(s.networks, "status")})
	log := slog.New(slog.DiscardHandler)
	e := engine.New(engine.Deps{
		Planner:   &plan.Resolver{Networks: src, Pods: src, Log: log},
		Publisher: discard{}, LockFile: hostnode.LockFile, Log: log,
	})
	conf := maps.Clone(s.conf)
	conf["runtimeConfig"] = map[string]any{passed: s.pod.Annotations}
	b, err := json.Marshal(conf)
	check(t, err)
	req := &request.Request{
		Command: command, ContainerID: s.pod.ContainerID, Netns: s.pod.Path, IfName: "eth0",
		Path: strings.Join(s.BinDirs, ":"), Config: b,
		Args: request.Args{
			{"IgnoreUnknown", "1"},
			{request.PodNamespace, s.pod.Namespace},
			{request.PodName, s.pod.Name},
			{request.PodUID, s.pod.UID},
		},
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("the time is up"))
	defer cancel()
	s.Do(t, func() {
		if command == "ADD" {
			_, err = e.Add(ctx, req)
			return
		}
		err = e.Del(ctx, req)
	})
	return err
}

type discard struct{}

func (discard) Publish(context.Context, *publish.Report) error { return nil }

// TestHung checks a delegate that hangs. At the deadline of the request the delegate is killed with its processes, and
// the error names it. ADD is undone. DEL deletes all other attachments, and the next DEL succeeds.
func TestHung(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thin, variants[3], nil)
	s.variant.networks = `[{"name":"plain"},{"name":"hang"},{"name":"list"}]`
	s.script(t, "hang", `[ -e "$dir/hang-$CNI_COMMAND" ] && { sleep 60 & echo $! >"$dir/pid"; wait; }`)
	s.newPod(t)
	r := table.row("delegate hangs")
	const limit = 3 * time.Second
	for _, verb := range []string{"ADD", "DEL"} {
		r.try()
		if verb == "DEL" {
			s.attach(t)
		}
		s.flag(t, "hang-"+verb, true)
		start := time.Now()
		err := s.local(t, limit, verb)
		took := time.Since(start)
		if err == nil || !strings.Contains(err.Error(), "hang") || !strings.Contains(err.Error(), "killed") ||
			took > limit+10*time.Second {
			r.bad(t, &r.stuck, 1, "%s ended after %s: %v", verb, took, err)
		}
		if killFile(t, filepath.Join(s.Dir, "pid")) {
			r.bad(t, &r.stuck, 1, "%s: a process of the delegate is still running", verb)
		}
		if left := interfaces(t, s.pod.NS); len(left) > 0 {
			r.bad(t, &r.interfaces, len(left), "%s: not every other attachment is deleted: %v", verb, left)
		}
		s.flag(t, "hang-"+verb, false)
		s.delOnce(t, r, "DEL after a hung "+verb)
		s.clean(t, r, "DEL after a hung "+verb)
	}
}

// TestLimits checks that with the real limits the answer comes before the two minutes after which a kubelet gives up.
func TestLimits(t *testing.T) {
	t.Parallel()
	if !long() {
		t.Skip("takes minutes: FAULTS_SECONDS=61")
	}
	for _, verb := range []string{"ADD", "DEL"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, node.Thick, variants[3], nil)
			s.variant.networks = `[{"name":"plain"},{"name":"hang"},{"name":"list"}]`
			s.script(t, "hang", `[ -e "$dir/hang-$CNI_COMMAND" ] && exec sleep 600`)
			s.newPod(t)
			r := table.row("delegate hangs, real limits")
			r.try()
			if verb == "DEL" {
				s.attach(t)
			}
			s.flag(t, "hang-"+verb, true)
			start := time.Now()
			err := s.call(t, verb)
			if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "hang") || took > 119*time.Second {
				r.bad(t, &r.stuck, 1, "%s ended after %s: %v", verb, took, err)
			}
			if left := interfaces(t, s.pod.NS); len(left) > 0 {
				r.bad(t, &r.interfaces, len(left), "not every other attachment is deleted: %v", left)
			}
			s.flag(t, "hang-"+verb, false)
			s.delOnce(t, r, "DEL after a hung "+verb)
			s.clean(t, r, "DEL after a hung "+verb)
		})
	}
}

// TestFailsAfterKill kills an ADD before its result is known, and then the delegate's DEL fails. Something may be held,
// so the error is returned, and the next DEL succeeds. This applies to the cluster network and to other networks.
func TestFailsAfterKill(t *testing.T) {
	t.Parallel()
	for network, point := range map[string]string{"held": "exec.after:3", "cluster": "exec.after:1"} {
		t.Run(network, func(t *testing.T) { failsAfterKill(t, network == "cluster", point) })
	}
}

func failsAfterKill(t *testing.T, cluster bool, point string) {
	t.Parallel()
	s := newSite(t, node.Thin, variants[3], nil)
	s.variant.networks = `[{"name":"held"}]`
	if cluster {
		s.variant.networks = "[]"
		file := filepath.Join(s.Dir, "net.d", "10-held.conf")
		check(t, os.WriteFile(file, []byte(`{"cniVersion":"1.0.0","name":"held","type":"script-held"}`), 0o644))
		s.conf["clusterNetwork"] = file
	}
	s.script(t, "held", `case $CNI_COMMAND in
ADD) touch "$dir/ipam-held";;
DEL) [ -e "$dir/faulty" ] && { echo '{"code":100,"msg":"out of order"}'; exit 1; }; rm -f "$dir/ipam-held";;
esac`)
	s.newPod(t)
	r := table.row("delegate fails at DEL after a killed ADD")
	r.try()
	s.flag(t, "faulty", true)
	if err := s.call(t, "ADD", "MULTUS_FAILPOINT="+point); !errors.Is(err, errKilled) {
		t.Fatalf("ADD: %v", err)
	}
	err := s.call(t, "DEL")
	s.flag(t, "faulty", false)
	if err == nil {
		r.bad(t, &r.addresses, 1, "DEL succeeds though its delegate failed and holds something")
	}
	s.delOnce(t, r, "the delegate works again")
	if _, err := os.Stat(filepath.Join(s.Dir, "ipam-held")); err == nil {
		r.bad(t, &r.addresses, 1, "never freed")
	}
	s.clean(t, r, "the delegate works again")
}

// TestOrphan kills the plugin while its delegate hangs. The first DEL waits for the delegate, kills it and frees
// everything.
func TestOrphan(t *testing.T) {
	t.Parallel()
	if !long() {
		t.Skip("DEL waits for half a minute: FAULTS_SECONDS=61; the short form of it is TestOrphans in internal/engine")
	}
	s := newSite(t, node.Thick, variants[3], nil)
	s.variant.networks = `[{"name":"plain"},{"name":"stuck"}]`
	s.script(t, "stuck", `[ $CNI_COMMAND = ADD ] && { echo $$ >"$dir/pid"; exec sleep 600; }`)
	s.newPod(t)
	r := table.row("delegate of a killed plugin hangs")
	r.try()
	if err := s.call(t, "ADD", "MULTUS_FAILPOINT=exec.started:4"); !errors.Is(err, errKilled) {
		t.Fatalf("ADD: %v", err)
	}
	s.delOnce(t, r, "DEL")
	if killFile(t, filepath.Join(s.Dir, "pid")) {
		r.bad(t, &r.stuck, 1, "the delegate is still running")
	}
	s.clean(t, r, "DEL")
}

// TestSwept checks that temporary files of killed processes do not accumulate.
func TestSwept(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thin, variants[2], nil) // its routes are moved, so that libcni's results are written again
	r := table.row("temporary files of killed processes")
	s.attach(t) // records the networks: from now on an ADD writes the record and two results
	s.del(t, r, "DEL")
	for pass := 1; pass <= 3; pass++ {
		r.try()
		if err := s.call(t, "ADD", fmt.Sprintf("MULTUS_FAILPOINT=fsx.written:%d", pass)); !errors.Is(err, errKilled) {
			t.Fatalf("ADD: %v", err)
		}
		s.del(t, r, "DEL")
	}
	left := func() []string {
		var out []string
		for _, dir := range []string{s.State(), filepath.Join(s.State(), "results")} {
			temps, err := filepath.Glob(filepath.Join(dir, ".multus-tmp-*"))
			check(t, err)
			out = append(out, temps...)
		}
		return out
	}
	temps := left()
	if len(temps) != 3 {
		t.Fatalf("to be swept: %v, want three", temps)
	}
	old := time.Now().Add(-time.Hour)
	// The modification time of .swept is the time of the last sweep.
	for _, f := range append(temps, s.State()+"-networks/.swept") {
		check(t, os.Chtimes(f, old, old))
	}
	s.attach(t)
	s.del(t, r, "DEL")
	if temps := left(); len(temps) > 0 {
		r.bad(t, &r.records, len(temps), "not swept: %v", temps)
	}
}

// TestHarness tests the harness: without the ledger the same faults are detected.
func TestHarness(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thin, variants[3], nil)
	for _, tc := range []struct {
		name, env string
		red       bool
	}{
		{"with the ledger", "MULTUS_FAILPOINT=exec.after:3", false},
		{"without the ledger", "MULTUS_FAILPOINT=ledger.write=skip,exec.after:3", true},
	} {
		r := &row{fault: tc.name, expected: tc.red}
		if err := s.call(t, "ADD", tc.env); !errors.Is(err, errKilled) {
			t.Fatalf("ADD: %v", err)
		}
		s.recover(t, r, true, tc.name)
		if got := r.sum() > 0; got != tc.red {
			t.Errorf("%s: the harness counts %d", tc.name, r.sum())
		}
		if tc.red && (r.interfaces == 0 || r.addresses == 0) {
			t.Errorf("leaked interfaces %d, leaked addresses %d: want both to be seen", r.interfaces, r.addresses)
		}
	}
}
