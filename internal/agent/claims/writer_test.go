package claims

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"multus/internal/device"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
)

// apiServer has the entries of claims: those of each pod, which the name of the claim and the UID of the pod identify.
type apiServer struct {
	mu      sync.Mutex
	entries map[string]string
	// errs are the errors of the next writes, and broken the one of all writes of claims with that name.
	errs   []error
	broken map[string]error
	calls  int
}

func newAPIServer() *apiServer {
	return &apiServer{entries: map[string]string{}, broken: map[string]error{}}
}

// WriteClaim implements publish.ClaimWriter.
func (a *apiServer) WriteClaim(_ context.Context, s *publish.ClaimStatus) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if len(a.errs) > 0 {
		err := a.errs[0]
		if a.errs = a.errs[1:]; err != nil {
			return err
		}
	}
	if err := a.broken[s.Name]; err != nil {
		return err
	}
	var texts []string
	for i := range s.Devices {
		texts = append(texts, s.Devices[i].Device+" "+s.Devices[i].Interface)
	}
	key := s.Name + " " + s.Pod.UID
	a.entries[key] = strings.Join(texts, ", ")
	if len(texts) == 0 {
		delete(a.entries, key)
	}
	return nil
}

func (a *apiServer) has(key string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.entries[key]
}

func (a *apiServer) set(claim string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken[claim] = err
}

func (a *apiServer) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

// site is a Writer with what it works with.
type site struct {
	*Writer
	api   *apiServer
	clock *clocktesting.FakeClock
	dir   string
	// records are the sandboxes in the ledger.
	mu      sync.Mutex
	records map[string]bool
	stop    func()
}

// driver is the one in the configuration.
const driver = "nic.example.com"

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{
		api: newAPIServer(), clock: clocktesting.NewFakeClock(time.Now()), dir: filepath.Join(t.TempDir(), "claims"),
		records: map[string]bool{},
	}
	s.restart(t)
	return s
}

// restart ends the daemon, if it runs, and starts the next one.
func (s *site) restart(t *testing.T) {
	t.Helper()
	if s.stop != nil {
		s.stop()
	}
	s.Writer = New(Options{
		Cluster: s.api, Drivers: []string{driver}, Dir: s.dir, Clock: s.clock, Log: slog.New(slog.DiscardHandler),
		Recorded: func(id string) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.records[id]
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func(w *Writer) { ended <- w.Run(ctx) }(s.Writer)
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
}

func (s *site) record(id string, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[id] = there
}

// add reports the ADD of a sandbox of a pod, whose networks have the devices: "claim device interface".
func (s *site) add(pod, container string, at int64, devices ...string) {
	s.record(container, true)
	s.Observe(report(pod, container, at, devices...))
}

func report(pod, container string, at int64, devices ...string) *publish.Report {
	r := &publish.Report{
		Command: request.Add, Pod: request.Pod{Namespace: "n", Name: pod, UID: "uid-" + pod}, ContainerID: container,
		Netns: "/run/netns/x", Time: at,
		Attached: []publish.Attached{{Name: "cluster", IfName: "eth0", Result: json.RawMessage(`{"cniVersion":"1.0.0"}`)}},
	}
	for _, d := range devices {
		words := strings.Fields(d)
		c := claim(words[0], words[1])
		r.Attached = append(r.Attached, publish.Attached{
			Name: "n/net", IfName: words[2], Claim: &c, Result: json.RawMessage(fmt.Sprintf(
				`{"cniVersion":"1.0.0","interfaces":[{"name":%q,"sandbox":"/run/netns/x"}]}`, words[2])),
		})
	}
	return r
}

// claim returns a device. One whose name begins with "gpu" is of another driver.
func claim(name, dev string) device.Claim {
	c := device.Claim{Namespace: "n", Name: name, Driver: driver, Pool: "p", Device: dev}
	if strings.HasPrefix(dev, "gpu") {
		c.Driver = "gpu.example.com"
	}
	return c
}

// del reports the DEL of a sandbox, with the devices that its record has.
func (s *site) del(pod, container string, at int64, claims ...device.Claim) {
	s.record(container, false)
	s.Observe(delReport(pod, container, at, claims...))
}

func delReport(pod, container string, at int64, claims ...device.Claim) *publish.Report {
	return &publish.Report{
		Command: request.Del, Pod: request.Pod{Namespace: "n", Name: pod, UID: "uid-" + pod}, ContainerID: container,
		Time: at, Claims: claims,
	}
}

// until waits until the pod's entry in a claim is as wanted, and advances the clock by step meanwhile.
func (s *site) until(t *testing.T, claim, pod, want string, step time.Duration) {
	t.Helper()
	key := claim + " uid-" + pod
	eventually.True(t, fmt.Sprintf("%s is %q", key, want), func() bool {
		if s.api.has(key) == want {
			return true
		}
		s.clock.Step(step)
		return false
	})
}

// idle waits until nothing waits, and checks how many notes are left.
func (s *site) idle(t *testing.T, notes int) {
	t.Helper()
	eventually.True(t, "nothing waits", func() bool { return s.Waiting() == 0 })
	files, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil || len(files) != notes {
		t.Errorf("notes %q, want %d: %v", files, notes, err)
	}
}

// TestLife checks that the entries of a pod are written after ADD, follow the changes of the running pod, and are
// removed after DEL, and that devices of other drivers are left out (behaviour H16, H17).
func TestLife(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.add("web", "c1", 1, "a vf0 net1", "a vf1 net2", "b vf2 net3", "a gpu0 net4", "g gpu1 net5")
	s.until(t, "a", "web", "vf0 net1, vf1 net2", 0)
	s.until(t, "b", "web", "vf2 net3", 0)
	s.idle(t, 1)
	if s.api.has("g uid-web") != "" {
		t.Error("the claim of another driver is written")
	}
	before := s.api.count()
	s.add("web", "c1", 1, "a vf0 net1", "a vf1 net2", "b vf2 net3", "a gpu0 net4", "g gpu1 net5") // the same report
	s.add("plain", "c2", 1)
	s.add("gpu", "c3", 1, "g gpu1 net5")
	change := report("web", "c1", 2, "a vf1 net2", "d vf3 net1")
	change.Command = request.Update
	s.Observe(change)
	s.until(t, "a", "web", "vf1 net2", 0)
	s.until(t, "b", "web", "", 0)
	s.until(t, "d", "web", "vf3 net1", 0)
	s.idle(t, 1)
	if got := s.api.count() - before; got != 3 {
		t.Errorf("%d requests, want one for each of the three claims", got)
	}
	s.del("web", "c1", 3)
	s.until(t, "a", "web", "", 0)
	s.until(t, "d", "web", "", 0)
	s.idle(t, 0)
	s.del("web", "c1", 4, claim("a", "vf1"), claim("g", "gpu1")) // repeated by the runtime, and the record has the claims
	s.idle(t, 0)
}

// TestSandboxes checks that the reports about an earlier sandbox of a pod, and reports that arrive late, do not change
// the entries of the present one.
func TestSandboxes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.add("web", "old", 1, "a vf0 net1")
	s.add("web", "new", 3, "a vf0 net2")
	s.del("web", "old", 4)
	s.Observe(delReport("web", "new", 2)) // it waited on the socket
	s.until(t, "a", "web", "vf0 net2", 0)
	s.idle(t, 1)
	s.del("web", "new", 5)
	s.Observe(report("web", "new", 3, "a vf0 net2")) // the report of the ADD comes in a file that is read late
	s.until(t, "a", "web", "", 0)
	s.idle(t, 0)
	s.Observe(report("web", "new", 6, "a vf0 net2")) // a comparison that began before the DEL
	s.idle(t, 0)
	if got := s.api.has("a uid-web"); got != "" {
		t.Errorf("a sandbox that is gone has the entry %q", got)
	}
}

// TestRestart checks that a daemon removes the entries of sandboxes whose DEL no daemon saw, writes what an earlier one
// did not, and needs no request for the others (behaviour H17).
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.add("stays", "c1", 1, "a vf0 net1")
	s.add("goes", "c2", 1, "b vf1 net1")
	s.until(t, "a", "stays", "vf0 net1", 0)
	s.until(t, "b", "goes", "vf1 net1", 0)
	s.api.set("late", publish.ErrRetry)
	s.add("late", "c3", 1, "late vf2 net1")
	eventually.True(t, "an attempt", func() bool { return s.api.count() == 3 })
	s.stop()
	s.record("c2", false)
	s.api.set("late", nil)
	s.restart(t)
	s.until(t, "b", "goes", "", 0)
	s.until(t, "late", "late", "vf2 net1", 0)
	s.idle(t, 2)
	if got := s.api.count(); got != 5 {
		t.Errorf("%d requests, want 5", got)
	}
	s.record("c1", false) // its report of the DEL is lost while the daemon runs
	s.until(t, "a", "stays", "", checkEvery)
	s.idle(t, 1)
}

// TestLostNotes checks that the claims in the report of a DEL are used if the notes are lost.
func TestLostNotes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.add("web", "c1", 1, "a vf0 net1")
	s.until(t, "a", "web", "vf0 net1", 0)
	s.stop()
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	s.del("web", "c1", 2, claim("a", "vf0"), claim("g", "gpu0"))
	s.until(t, "a", "web", "", 0)
	s.idle(t, 0)
}

// TestAnotherLedger checks that nothing is removed if the ledger of the plugins is not that of the daemon.
func TestAnotherLedger(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Observe(report("web", "c1", 1, "a vf0 net1"))
	s.until(t, "a", "web", "vf0 net1", 0)
	s.restart(t)
	s.compare()
	s.idle(t, 1)
	s.del("web", "c1", 2)
	s.until(t, "a", "web", "", 0)
}

// TestFaults checks what becomes of entries that cannot be written: they are tried again, or given up for a claim that
// is gone or refuses them, and the other claims of the pod have theirs (behaviour H18).
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err   error
		again bool
	}{
		"the API server is away":    {publish.ErrRetry, true},
		"another pod has the entry": {publish.ErrTaken, true},
		"an error of unknown kind":  {os.ErrPermission, true},
		"the claim is deleted":      {publish.ErrGone, false},
		"the claim refuses it":      {publish.ErrRefused, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.api.set("a", fmt.Errorf("of the test: %w", tc.err))
			s.add("web", "c1", 1, "a vf0 net1", "b vf1 net2")
			s.until(t, "b", "web", "vf1 net2", 0)
			eventually.True(t, "an attempt", func() bool { return s.api.count() >= 2 })
			if tc.again {
				s.api.set("a", nil)
				s.until(t, "a", "web", "vf0 net1", lastRetry)
			}
			s.idle(t, 1)
			if got := s.api.has("a uid-web"); (got != "") != tc.again {
				t.Errorf("entry %q", got)
			}
			s.api.set("a", tc.err)
			s.del("web", "c1", 2)
			s.until(t, "b", "web", "", 0)
			s.api.set("a", nil)
			if tc.again {
				s.until(t, "a", "web", "", lastRetry)
			}
			s.idle(t, 0)
		})
	}
}

// TestForbidden checks that only one pod is tried again periodically while the permission is missing, that all are
// written once it is granted, and that pods which end meanwhile need no permission (behaviour H18).
func TestForbidden(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const pods = 20
	s.api.set("a", publish.ErrForbidden)
	for i := range pods {
		s.add(fmt.Sprint("web-", i), fmt.Sprint("c", i), 1, fmt.Sprintf("a vf%d net1", i))
	}
	eventually.True(t, "each is tried once", func() bool { return s.api.count() == pods })
	eventually.True(t, "a period ends", func() bool {
		s.clock.Step(forbiddenPause)
		return s.api.count() > pods
	})
	const ended = 5
	before := s.api.count()
	for i := range ended {
		s.del(fmt.Sprint("web-", i), fmt.Sprint("c", i), 2)
		eventually.True(t, "the pod that ended needs nothing", func() bool { return s.Waiting() == float64(pods-1-i) })
	}
	if n := s.api.count() - before; n >= pods-ended {
		t.Errorf("%d requests after %d pods ended: the others are tried, too", n, ended)
	}
	s.api.set("a", nil)
	for i := ended; i < pods; i++ {
		s.until(t, "a", fmt.Sprint("web-", i), fmt.Sprintf("vf%d net1", i), forbiddenPause)
	}
	s.idle(t, pods-ended)
}

// TestForbiddenRemoval checks that the permission that is missing for one claim of a pod that has ended does not leave
// its entries in another claim, which cannot be written at that time (behaviour H18).
func TestForbiddenRemoval(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.add("web", "c1", 1, "a vf0 net1", "b vf1 net2")
	s.until(t, "b", "web", "vf1 net2", 0)
	s.idle(t, 1)
	s.api.set("a", publish.ErrForbidden)
	s.api.set("b", publish.ErrRetry)
	before := s.api.count()
	s.del("web", "c1", 2)
	eventually.True(t, "an attempt", func() bool { return s.api.count() >= before+2 })
	s.api.set("b", nil)
	s.until(t, "b", "web", "", lastRetry)
	s.idle(t, 0)
}

// TestDamagedNotes checks that a file that has no note, that of another pod, or one whose UID is not valid, is removed.
func TestDamagedNotes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.stop()
	long := strings.Repeat("u", maxUID+1)
	for file, text := range map[string]string{
		"empty.json": "", "other.json": `{"pod":{"UID":"uid-web"}}`, "unrelated": "x",
		long + ".json": fmt.Sprintf(`{"pod":{"UID":%q},"written":true}`, long),
	} {
		err := os.MkdirAll(s.dir, 0o700)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, file), []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.dir, "dir.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	s.idle(t, 1) // the file that is unrelated
}

// TestHostileReport checks that a report makes the daemon write only claims that its pod can use, and keep only what is
// bounded (behaviour H16).
func TestHostileReport(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxNote)
	for name, change := range map[string]func(*publish.Report){
		"a UID that leaves the directory": func(r *publish.Report) { r.Pod.UID = "../x" },
		"a UID with dots":                 func(r *publish.Report) { r.Pod.UID = ".." },
		"a UID that is too long":          func(r *publish.Report) { r.Pod.UID = strings.Repeat("u", maxUID+1) },
		"a claim of another namespace":    func(r *publish.Report) { r.Pod.Namespace = "other" },
		"a long container ID":             func(r *publish.Report) { r.ContainerID = long },
		"a long name of a pod":            func(r *publish.Report) { r.Pod.Name = long },
		"a long name of a claim": func(r *publish.Report) {
			for i := range r.Attached {
				if c := r.Attached[i].Claim; c != nil {
					c.Name = long
				}
			}
			for i := range r.Claims {
				r.Claims[i].Name = long
			}
		},
	} {
		for command, r := range map[string]*publish.Report{
			"ADD": report("x", "c1", 1, "a vf0 net1"), "DEL": delReport("x", "c1", 1, claim("a", "vf0")),
		} {
			t.Run(name+" "+command, func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				change(r)
				s.Observe(r)
				s.idle(t, 0)
				s.Writer.mu.Lock()
				defer s.Writer.mu.Unlock()
				if n := len(s.notes); n > 0 || s.api.count() > 0 {
					t.Errorf("%d notes, %d requests", n, s.api.count())
				}
			})
		}
	}
}
