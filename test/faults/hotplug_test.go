package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multus/internal/engine/ledger"
	"multus/internal/fsx"
	"multus/internal/host/runner"
	hostnode "multus/internal/node"
	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

// hotPlugNetworks are the networks of the tests of running pods. The fourth one refuses every ADD.
var hotPlugNetworks = []string{"n1", "n2", "n3"}

const refusing = "refusing"

// networks is what a pod requests: the interface of each network, or "" if the pod leaves the choice to Multus.
type networks map[string]string

// annotation returns the value of the pod's annotation.
func (n networks) annotation() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		if n[name] != "" {
			name += "@" + n[name]
		}
		out = append(out, name)
	}
	return strings.Join(out, ", ")
}

// hotPlugSite is a changingSite whose daemon changes the networks of running pods.
type hotPlugSite struct {
	*changingSite
	// config is the file from which a runner reads its configuration.
	config string
}

// newHotPlugSite creates a site. linger is how long the runners that the plugin starts wait for more work.
func newHotPlugSite(t *testing.T, cluster *kubetest.Cluster, namespace, linger string) *hotPlugSite {
	t.Helper()
	return newRunnerSite(t, cluster, namespace, map[string]any{"hotPlug": true, "hotPlugLinger": linger})
}

// newRunnerSite creates a site with a configuration of the daemon.
func newRunnerSite(t *testing.T, cluster *kubetest.Cluster, namespace string, conf map[string]any) *hotPlugSite {
	t.Helper()
	s := &hotPlugSite{changingSite: newChangingSiteWith(t, cluster, namespace, conf)}
	s.config = filepath.Join(s.Dir, "runner.conf")
	check(t, os.WriteFile(s.config, s.Conf(), 0o600))
	for i, name := range hotPlugNetworks {
		cluster.CreateNetwork(t, s.ns, name, s.bridged(100+i), nil)
	}
	cluster.CreateNetwork(t, s.ns, refusing,
		s.scripted(t, refusing, `[ $CNI_COMMAND = ADD ] && { echo '{"code":100,"msg":"no"}'; exit 1; }`), nil)
	r := &row{fault: "warm"}
	s.attachWith(t, r, networks{"n1": "", "n2": "", "n3": ""}) // creates the bridges
	s.finish(t, r, "warm")
	return s
}

// attachWith creates and attaches the site's pod.
func (s *hotPlugSite) attachWith(t *testing.T, r *row, has networks) {
	t.Helper()
	s.podCount++
	s.makePod(t, fmt.Sprintf("pod-%d", s.podCount), has.annotation())
	if err := s.call(t, "ADD"); err != nil {
		r.bad(t, &r.stuck, 1, "ADD: %v\n%s", err, s.DaemonLog())
	}
	s.idle(t)
}

// idle waits until no runner works. ADD starts one if the daemon has handed out pods to a runner that was killed. A
// runner that no daemon has answered does not know hotPlugLinger, and waits for runner.DefaultLinger.
func (s *hotPlugSite) idle(t *testing.T) {
	t.Helper()
	within(t, "the runner ends", runner.DefaultLinger+waitTimeout, func() bool {
		l, err := fsx.TryAcquire(hostnode.LockFile, "runner of "+filepath.Join(s.SocketDir(), "multus.sock"))
		return err == nil && l.Close() == nil
	})
}

// finish deletes the site's pod, and counts what is left of it.
func (s *hotPlugSite) finish(t *testing.T, r *row, what string) {
	t.Helper()
	s.del(t, r, what)
	s.cluster.DeletePod(t, s.ns, s.pod.Name)
	s.clean(t, r, what)
}

// request sets the annotation of a running pod.
func (s *hotPlugSite) request(t *testing.T, p *node.Pod, n networks) {
	t.Helper()
	s.cluster.Annotate(t, s.ns, p.Name, networksKey, n.annotation())
}

// runner starts a runner, as the plugin does.
func (s *hotPlugSite) runner(t *testing.T, env ...string) *process {
	t.Helper()
	return s.runnerFor(t, s.config, "0", env...)
}

func (s *site) runnerFor(t *testing.T, config, linger string, env ...string) *process {
	t.Helper()
	c := &process{Cmd: exec.Command(filepath.Join(s.BinDirs[0], "multus-shim"), "runner", "--config", config,
		"--cni-path", strings.Join(s.BinDirs, ":"), "--linger="+linger)}
	c.Env = append(os.Environ(), env...)
	s.begin(t, c)
	return c
}

// stop ends a runner as an administrator does.
func (p *process) stop(t *testing.T) {
	t.Helper()
	check(t, p.Process.Signal(syscall.SIGTERM))
	if err := p.end(); err != nil && !errors.Is(err, errKilled) { // the signal may come before its handler is set
		t.Errorf("runner: %v", err)
	}
}

// reach waits until a pod has these networks. A new runner makes the changes.
func (s *hotPlugSite) reach(t *testing.T, r *row, n networks, what string) {
	t.Helper()
	if s.differs(t, s.pod, n) == "" {
		return
	}
	c := s.runner(t)
	s.settles(t, r, s.pod, n, waitTimeout, what)
	c.stop(t)
}

// settles waits until a pod has these networks and nothing else, and counts what is wrong after limit.
func (s *hotPlugSite) settles(t *testing.T, r *row, p *node.Pod, n networks, limit time.Duration, what string) {
	t.Helper()
	var difference string
	if !within(t, what+": the networks of the pod", limit, func() bool {
		difference = s.differs(t, p, n)
		return difference == ""
	}) {
		r.bad(t, &r.stuck, 1, "%s: pod %s with networks %q (-want +got):\n%s", what, p.Name, n.annotation(), difference)
	}
}

// place is one attachment of a pod, as one of the places shows it that know of attachments.
type place struct{ Interface, Network, Address string }

// differs compares the record, the interfaces, the network status and the reservations of a pod with what it requests.
func (s *hotPlugSite) differs(t *testing.T, p *node.Pod, n networks) string {
	t.Helper()
	record, err := s.recorded(p)
	if err != nil {
		return err.Error()
	}
	got := networks{}
	for _, a := range record[min(1, len(record)):] {
		name := strings.TrimPrefix(a.Network, s.ns+"/")
		if got[name] = a.Interface; n[name] == "" {
			got[name] = ""
		}
	}
	if d := cmp.Diff(n, got); d != "" || len(record) != 1+len(n) {
		return fmt.Sprintf("%d attachments are recorded\n%s", len(record), d)
	}
	var names []string
	reserved, byAddress := s.reserved(t, p), map[string]string{}
	for _, a := range record {
		names = append(names, a.Interface)
		byAddress[a.Interface] = reserved[a.Interface]
	}
	slices.Sort(names)
	shown := s.shown(t, p)
	for i := range record {
		record[i].Address = reserved[record[i].Interface]
	}
	slices.SortFunc(record, func(a, b place) int { return strings.Compare(a.Interface, b.Interface) })
	return cmp.Diff(names, interfaces(t, p.NS)) + cmp.Diff(byAddress, reserved) + cmp.Diff(record, shown)
}

// errPending is returned for a record with an attachment that is neither made nor removed.
var errPending = errors.New("an attachment is pending")

// recorded returns the attachments in the record of a pod.
func (s *hotPlugSite) recorded(p *node.Pod) (out []place, err error) {
	store := &ledger.Store{Dir: s.State(), Log: slog.New(slog.DiscardHandler)}
	record, err := store.Read(p.ContainerID, ledger.DefaultIfName)
	if err != nil || record == nil {
		return nil, err
	}
	for i := range record.Attachments {
		a := &record.Attachments[i]
		if a.Pending {
			return nil, fmt.Errorf("%w: %s", errPending, a.IfName)
		}
		out = append(out, place{Interface: a.IfName, Network: a.Name})
	}
	return out, nil
}

// shown returns the attachments in the network status of a pod, by interface.
func (s *hotPlugSite) shown(t *testing.T, p *node.Pod) (out []place) {
	t.Helper()
	value, _ := s.cluster.Annotation(t, s.ns, p.Name, statusKey)
	var list []struct {
		Name, Interface string
		IPs             []string
	}
	if json.Unmarshal([]byte(value), &list) != nil {
		return nil
	}
	for _, e := range list {
		out = append(out, place{e.Interface, e.Name, strings.Join(e.IPs, " ")})
	}
	slices.SortFunc(out, func(a, b place) int { return strings.Compare(a.Interface, b.Interface) })
	return out
}

// reserved returns the addresses that host-local has reserved for a pod, by interface.
func (s *hotPlugSite) reserved(t *testing.T, p *node.Pod) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Reservations(), "*", "*.*.*.*"))
	check(t, err)
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue // freed meanwhile
		}
		check(t, err)
		if id, ifName, _ := strings.Cut(strings.TrimSpace(string(b)), "\n"); strings.TrimSpace(id) == p.ContainerID {
			out[ifName] = strings.TrimSpace(out[ifName] + " " + filepath.Base(f))
		}
	}
	return out
}

// TestHotPlug injects faults while the networks of running pods change (behaviour R8, R11).
func TestHotPlug(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Start(t)
	for _, test := range []struct {
		name, linger string
		run          func(*testing.T, *hotPlugSite)
	}{
		{"points", "20ms", runnerPoints},
		{"daemon", "20ms", hotPlugDaemonPoints},
		{"deleted", "20ms", hotPlugDeleted},
		{"restarted", "20ms", hotPlugRestarted},
		{"annotations", "20ms", hotPlugAnnotations},
		{"requests", "20ms", hotPlugRequests},
		{"random", "2s", hotPlugRandom},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newHotPlugSite(t, cluster, "hotplug-"+test.name, test.linger))
		})
	}
}

// plugStep is a change of a running pod: from one set of networks to another one.
type plugStep struct {
	name     string
	from, to networks
	// refused is requested in addition, and cannot be attached.
	refused networks
}

var plugSteps = []plugStep{
	{name: "two networks attached", from: networks{}, to: networks{"n1": "data1", "n2": ""}},
	{
		name: "an interface changes its network",
		from: networks{"n1": "data1", "n2": ""}, to: networks{"n2": "", "n3": "data1"},
	},
	{name: "two networks detached", from: networks{"n2": "", "n3": "data1"}, to: networks{}},
	{name: "one network refused", from: networks{}, to: networks{"n1": "data1"}, refused: networks{refusing: "bad0"}},
}

// requested returns the networks in the annotation.
func (p *plugStep) requested() networks {
	out := maps.Clone(p.to)
	maps.Copy(out, p.refused)
	return out
}

// runnerPoints kills the runner at every point that it passes while it changes the networks of a pod. Its delegates
// keep running. Then another runner completes the change, or the pod is deleted at once.
func runnerPoints(t *testing.T, s *hotPlugSite) {
	r := table.row("runner killed at every point")
	s.attachWith(t, r, networks{})
	for n := range plugSteps {
		step := &plugSteps[n]
		s.from(t, r, step)
		points := s.traced(t, step.name, func(env ...string) error {
			c := s.runner(t, env...)
			s.settles(t, r, s.pod, step.to, waitTimeout, step.name)
			c.stop(t)
			return nil
		})
		for i, p := range choosePlug(points, n) {
			r.try()
			s.from(t, r, step)
			if err := s.runner(t, p.env()).end(); !errors.Is(err, errKilled) {
				t.Errorf("%s: not killed: %v", p, err)
			}
			if i%3 != 0 {
				s.reach(t, r, step.to, p.String())
			}
			if i%3 != 1 {
				s.finish(t, r, p.String())
				s.attachWith(t, r, step.from)
			}
		}
	}
	s.finish(t, r, "after all")
}

// from brings the pod to the begin of a step, and requests its end.
func (s *hotPlugSite) from(t *testing.T, r *row, step *plugStep) {
	t.Helper()
	s.request(t, s.pod, step.from)
	s.reach(t, r, step.from, "before: "+step.name)
	s.request(t, s.pod, step.requested())
}

// choosePlug selects points for a short run: those of a change itself, and of the others a part that depends on the
// step.
func choosePlug(points []point, step int) (out []point) {
	if long() {
		return points
	}
	passes := map[string][]point{}
	for _, p := range points {
		passes[p.name] = append(passes[p.name], p)
	}
	for i, name := range slices.Sorted(maps.Keys(passes)) {
		own := hasPrefix(name, "apply.", "runner.", "detach.", "reattach.", "observe.")
		if have := passes[name]; own || i%len(plugSteps) == step {
			out = append(out, have[rand.IntN(len(have))])
		}
	}
	return out
}

// hasPrefix reports whether a name has one of several prefixes.
func hasPrefix(name string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// hotPlugDaemonPoints kills the daemon at its points while a runner works, and starts it again.
func hotPlugDaemonPoints(t *testing.T, s *hotPlugSite) {
	r := table.row("daemon killed at every point of a hot-plug")
	s.attachWith(t, r, networks{})
	states := []networks{{"n1": "data1", "n2": ""}, {}}
	n := 0
	for _, name := range []string{
		"hotplug.handed", "hotplug.compared", "hotplug.received", "hotplug.settled", "daemon.status.before",
		"daemon.status.after", "daemon.spool.removed",
	} {
		for range states {
			r.try()
			s.StopDaemon(t)
			s.DaemonEnv = []string{"MULTUS_FAILPOINT=" + name}
			s.StartDaemon(t)
			c := s.runner(t)
			s.request(t, s.pod, states[n%2])
			s.restartWhenDead(t, name)
			s.settles(t, r, s.pod, states[n%2], waitTimeout, name)
			c.stop(t)
			n++
		}
	}
	s.finish(t, r, "after all")
}

// hotPlugRestarted restarts the daemon while a removal waits for its repetition (behaviour R33). The network status no
// longer has the network then, and the annotation does not request it: only the record shows that it has to be deleted.
func hotPlugRestarted(t *testing.T, s *hotPlugSite) {
	r := table.row("daemon killed before a removal is repeated")
	conf := s.scripted(t, "stubborn", `[ $CNI_COMMAND = DEL ] && [ -e "$dir/refuse" ] && { echo '{"code":100,"msg":"no"}'; exit 1; }
		fake=`+filepath.Join(s.BinDirs[1], "bridge"))
	bridge := strings.TrimPrefix(s.bridged(110), `{"cniVersion":"1.1.0","type":"bridge",`)
	s.cluster.CreateNetwork(t, s.ns, "stubborn", strings.TrimSuffix(conf, "}")+","+bridge, nil)
	for _, killed := range []bool{false, true} {
		what := fmt.Sprintf("removal of a network, runner killed: %t", killed)
		r.try()
		s.attachWith(t, r, networks{"n1": "", "stubborn": ""})
		s.flag(t, "refuse", true)
		s.request(t, s.pod, networks{"n1": ""})
		c := s.runner(t)
		waitFor(t, "the removal has failed", func() bool {
			_, err := s.recorded(s.pod)
			return errors.Is(err, errPending) && len(s.shown(t, s.pod)) == 2
		})
		if killed {
			check(t, c.Process.Kill())
			_ = c.end()
		} else {
			c.stop(t)
		}
		s.StopDaemon(t)
		s.flag(t, "refuse", false)
		s.StartDaemon(t)
		s.reach(t, r, networks{"n1": ""}, what)
		s.finish(t, r, what)
	}
}

// hotPlugDeleted deletes a pod while its networks change: DEL waits for the change and frees everything, also if the
// runner is killed, and a change that comes after DEL does nothing.
func hotPlugDeleted(t *testing.T, s *hotPlugSite) {
	r := table.row("pod deleted while its networks change")
	slow := `touch "$dir/called-$CNI_COMMAND"; [ $CNI_COMMAND = ADD ] && while [ -e "$dir/hold" ]; do sleep 0.02; done`
	s.cluster.CreateNetwork(t, s.ns, "slow", s.scripted(t, "slow", slow), nil)
	called := func(command string) bool {
		_, err := os.Stat(filepath.Join(s.Dir, "called-"+command))
		return err == nil
	}
	for _, killed := range []bool{false, true} {
		what := fmt.Sprintf("in a delegate, runner killed: %t", killed)
		r.try()
		s.flag(t, "hold", true)
		s.attachWith(t, r, networks{"n1": ""})
		s.request(t, s.pod, networks{"n2": "", "slow": ""})
		c := s.runner(t)
		waitFor(t, "the delegate is called", func() bool { return called("ADD") })
		if killed {
			check(t, c.Process.Kill())
			_ = c.end()
		}
		del := s.start(t, s.pod, "DEL")
		if l, err := fsx.TryAcquire(hostnode.LockFile, s.pod.ContainerID); err == nil {
			t.Errorf("%s: nothing holds the lock of the sandbox", what)
			check(t, l.Close())
		}
		s.flag(t, "hold", false)
		if err := del.end(); err != nil {
			r.bad(t, &r.stuck, 1, "%s: DEL: %v", what, err)
		}
		if !killed {
			c.stop(t)
		}
		if !called("DEL") {
			r.bad(t, &r.records, 1, "%s: the network that was being attached is not deleted", what)
		}
		s.finish(t, r, what)
		s.flag(t, "called-ADD", false)
		s.flag(t, "called-DEL", false)
	}
	s.deletedFirst(t, r, called)
	if long() {
		s.deletedWhileHung(t, r, called)
	}
}

// deletedWhileHung deletes a pod while a delegate of a killed runner hangs. DEL ends the delegate after some time. A
// short run leaves it out, because DEL waits for half a minute.
func (s *hotPlugSite) deletedWhileHung(t *testing.T, r *row, called func(command string) bool) {
	t.Helper()
	const what = "DEL while a delegate of a killed runner hangs"
	r.try()
	s.flag(t, "hold", true)
	s.attachWith(t, r, networks{"n1": ""})
	s.request(t, s.pod, networks{"n2": "", "slow": ""})
	c := s.runner(t)
	waitFor(t, "the delegate is called", func() bool { return called("ADD") })
	check(t, c.Process.Kill())
	_ = c.end()
	s.finish(t, r, what)
	s.flag(t, "hold", false)
}

// deletedFirst deletes a pod after its change was planned and before the change begins.
func (s *hotPlugSite) deletedFirst(t *testing.T, r *row, called func(command string) bool) {
	t.Helper()
	const what = "DEL between the plan of a change and the change"
	r.try()
	s.attachWith(t, r, networks{"n1": ""})
	s.request(t, s.pod, networks{"n2": "", "slow": ""})
	trace := filepath.Join(t.TempDir(), "trace")
	c := s.runner(t, "MULTUS_FAILPOINT_TRACE="+trace, "MULTUS_FAILPOINT=apply.planned=3s")
	passes := func(point string) {
		waitFor(t, "the runner passes "+point, func() bool {
			b, err := os.ReadFile(trace)
			return err == nil && strings.Contains(string(b), point)
		})
	}
	passes("apply.planned")
	s.del(t, r, what)
	passes("runner.applied")
	c.stop(t)
	if called("ADD") {
		r.bad(t, &r.interfaces, 1, "%s: a delegate is called", what)
	}
	s.finish(t, r, what)
}
