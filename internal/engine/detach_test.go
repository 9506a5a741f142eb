package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/detach"
	"multus/internal/engine/hostdevice"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fsx"
	"multus/internal/testutil/testnet"
)

// TestRefusedForGood checks that a plugin that refuses every DEL of an attachment does not keep its pod forever once
// the namespace is gone. The cluster network is never given up, and neither is a network whose plugin asks to try
// again, is killed or is missing.
func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	refuse := `echo '{"code":999,"msg":"failed to find slave net1: Link not found"}'; exit 1`
	for _, tc := range []struct {
		name, plugin, does, netns string
		fails                     int // -1: always
	}{
		{"the namespace is gone", "other", refuse, "", detach.Refusals},
		{"the namespace is there, the interface is not", "other", refuse, "/proc/self/ns/net", detach.RefusalsInPlace},
		{"the cluster network", "cluster", refuse, "", -1},
		{"try again", "other", `echo '{"code":11,"msg":"the API server does not answer"}'; exit 1`, "", -1},
		{"plain text", "other", "echo 'Link not found' >&2; exit 1", "", detach.Refusals},
		{"plain text of a full disk", "other", "echo 'Link not found: no space left on device' >&2; exit 1", "", -1},
		{"a crash", "other", "exit 2", "", -1},
		{"a crash of a Go program", "other", `printf 'panic: x\n\ngoroutine 1 [running]:\n' >&2; exit 2`, "", -1},
		{"killed", "other", "kill -9 $$", "", -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
			n.result(t, "cluster-net", "c", "eth0")
			n.result(t, "other-net", "c", "net1")
			n.does(t, tc.plugin, `test $CNI_COMMAND = DEL && { `+tc.does+`; }`)
			for try := range detach.RefusalsInPlace + 3 {
				req := n.request(request.Del, "c", "")
				req.Netns = tc.netns
				err := n.engine.Del(t.Context(), req)
				fails := tc.fails < 0 || try < tc.fails
				if !n.recorded(t, "c") && !fails && try > tc.fails {
					break // this was the DEL of a sandbox without a record
				}
				if (err != nil) != fails || n.recorded(t, "c") != fails {
					t.Fatalf("DEL %d: %v, recorded %t", try+1, err, n.recorded(t, "c"))
				}
			}
			notes, err := n.store.Abandoned()
			if err != nil || (len(notes) == 1) != (tc.fails >= 0) {
				t.Fatalf("%+v, %v", notes, err)
			}
			if len(notes) == 1 && (notes[0].Network != "other-net" || notes[0].Pod != "team/p-c" ||
				!strings.Contains(notes[0].Reason, "Link not found")) {
				t.Errorf("%+v", notes[0])
			}
		})
	}
}

// TestRefusalsAreCounted checks that the refusals of one network do not count for another one, whose plugin refuses for
// the first time.
func TestRefusalsAreCounted(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other", "third")
	n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
	r, err := n.store.Read("c", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	third, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"third-net","type":"third"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.BinDir = n.dir
	r.Attachments = append(r.Attachments, ledger.Attachment{Name: "third-net", IfName: "net2", Config: third})
	if err := n.store.Write(r); err != nil {
		t.Fatal(err)
	}
	for _, a := range r.Attachments {
		n.result(t, a.Config.Name(), "c", a.IfName)
	}
	refuse := `echo '{"code":999,"msg":"the store is locked"}'; exit 1`
	n.does(t, "other", refuse)
	for try := range 2*detach.Refusals + 1 {
		n.does(t, "third", refuse)
		if try < detach.Refusals {
			n.does(t, "third", `echo '{"code":11,"msg":"not now"}'; exit 1`)
		}
		if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); (err != nil) != (try < 2*detach.Refusals) {
			t.Errorf("DEL %d: %v", try+1, err)
		}
	}
}

// TestUndoAsksAgain checks that an undo is not complete if a plugin answers that DEL has to be tried again later.
func TestUndoAsksAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
	n.does(t, "other", `test $CNI_COMMAND = DEL && { echo '{"code":11,"msg":"not now"}'; exit 1; }`)
	s, err := n.engine.begin(n.request(request.Add, "c", ""))
	if err != nil {
		t.Fatal(err)
	}
	r, err := n.store.Read("c", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Lock(t.Context(), n.store, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	detach.Undo(t.Context(), b, b.Current(r), func(int) bool { return true })
	if err := b.Release(); err != nil {
		t.Fatal(err)
	}
	for range detach.Refusals + 2 {
		if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil || !n.recorded(t, "c") {
			t.Fatalf("DEL: %v, recorded: %t", err, n.recorded(t, "c"))
		}
	}
	n.does(t, "other", "")
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil || n.recorded(t, "c") {
		t.Errorf("DEL: %v", err)
	}
}

// TestVersionRefusedInPlace checks that DEL does not succeed while the interface exists. The error that a version is
// not supported may come from another plugin, which the network's plugin called after it had created the interface.
func TestVersionRefusedInPlace(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	pod := testnet.New(t)
	testnet.Veth(t, pod, "net1", testnet.New(t), "peer")
	n.attached(t, "c", "other", "1.0.0", pod.Path, "now")
	n.does(t, "other", `echo '{"code":1,"msg":"incompatible CNI versions"}'; exit 1`)
	req := n.request(request.Del, "c", "")
	req.Netns = pod.Path
	for range detach.Refusals + 2 {
		if err := n.engine.Del(t.Context(), req); err == nil || !n.recorded(t, "c") {
			t.Fatalf("with the interface: %v, recorded: %t", err, n.recorded(t, "c"))
		}
	}
	pod.Do(t, func() {
		if out, err := exec.Command("ip", "link", "del", "net1").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	if err := n.engine.Del(t.Context(), req); err != nil || n.recorded(t, "c") {
		t.Errorf("without it: %v", err)
	}
}

// TestBegunIsRecordedFirst checks that a DEL of more networks than one pod may have records how far ADD got before it
// deletes anything. At the next DEL the results that show it are gone, and a network that holds something would be left
// out.
func TestBegunIsRecordedFirst(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	n := newNode(t, "cluster", "other")
	if err := os.MkdirAll(n.store.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", n.store.Dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(n.store.Dir, unix.MNT_DETACH) })
	p := &plan.Plan{ContainerID: "c", Netns: "/run/netns/gone", Dirs: plan.Dirs{State: n.store.Dir, Binary: n.dir}}
	for i := range config.DefaultMaxNetworks + 1 {
		name := []string{"cluster", "other"}[min(i, 1)]
		l, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"` + name + `-net","type":"` + name + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		ifName := "net" + strconv.Itoa(i)
		if i == 0 {
			ifName = "eth0"
		}
		n.result(t, name+"-net", "c", ifName)
		p.Attachments = append(p.Attachments,
			plan.Attachment{Name: name + "-net", Primary: i == 0, IfName: ifName, Config: l})
	}
	if err := n.store.Write(ledger.NewRecord(p)); err != nil {
		t.Fatal(err)
	}
	n.does(t, "other", `test $CNI_IFNAME = net40 && exit 2`)
	full := filepath.Join(n.store.Dir, "full")
	if err := os.WriteFile(full, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil || n.called(t) != "" {
		t.Errorf("DEL on a full disk: %v", err)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	for try := range 2 {
		err := n.engine.Del(t.Context(), n.request(request.Del, "c", ""))
		want := []int{config.DefaultMaxNetworks + 1, 1}[try] // the second continues with the remaining one
		if got := strings.Count(n.called(t), "DEL c"); err == nil || !n.recorded(t, "c") || got != want {
			t.Errorf("DEL %d: %d networks, want %d; %v", try+1, got, want, err)
		}
	}
}

// TestDelRepeats checks that a DEL that follows a failed one repeats all attachments, as in today's Multus.
func TestDelRepeats(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
	n.result(t, "cluster-net", "c", "eth0")
	n.result(t, "other-net", "c", "net1")
	n.does(t, "cluster", "exit 2")
	for range 2 {
		if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil {
			t.Error("no error")
		}
		if got := n.called(t); got != "other DEL c, cluster DEL c" {
			t.Errorf("called: %s", got)
		}
	}
	n.does(t, "cluster", "")
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil || n.recorded(t, "c") {
		t.Errorf("%v", err)
	}
}

// TestDelOfThousands checks that a record of a version without a limit is deleted in steps that end. An attachment that
// was deleted is not deleted again, and networks that ADD did not reach get no DEL.
func TestDelOfThousands(t *testing.T) {
	t.Parallel()
	const networks, begun = 5000, 100
	n := newNode(t, "cluster", "other")
	p := &plan.Plan{ContainerID: "c", Netns: "/run/netns/gone", Dirs: plan.Dirs{State: n.store.Dir, Binary: n.dir}}
	for i := range networks {
		l, err := cniconf.Parse(fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"n","type":"%s"}`,
			map[bool]string{true: "cluster", false: "other"}[i == 0]))
		if err != nil {
			t.Fatal(err)
		}
		ifName := fmt.Sprintf("net%d", i)
		if i == 0 {
			ifName = "eth0"
		}
		p.Attachments = append(p.Attachments, plan.Attachment{Name: "ns/n", Primary: i == 0, IfName: ifName, Config: l})
		if i < begun {
			n.result(t, "n", "c", ifName)
		}
	}
	if err := n.store.Write(ledger.NewRecord(p)); err != nil {
		t.Fatal(err)
	}
	// The time limit is reached in the middle, when the plugin that hangs writes to the pipe.
	pipe := filepath.Join(n.dir, "hangs")
	n.does(t, "other", `test $CNI_IFNAME = net80 && test -p $dir/hangs && { echo >$dir/hangs; exec sleep 1000; }`)
	err := mkfifo(pipe)
	if err != nil {
		t.Fatal(err)
	}
	hangs, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_, _ = hangs.Read(make([]byte, 1)) // or at the end of the test
		cancel()
	}()
	err = n.engine.Del(ctx, n.request(request.Del, "c", ""))
	first := strings.Count(n.called(t), "DEL")
	t.Logf("%d deleted in the first DEL: %v", first, err)
	if err == nil || len(err.Error()) > 8<<10 || first == 0 {
		t.Errorf("no error, an endless one, or no progress: %d deleted, %.300v", first, err)
	}
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	total := first
	for try := 0; err != nil && try < 10; try++ {
		err = n.engine.Del(t.Context(), n.request(request.Del, "c", ""))
		total += strings.Count(n.called(t), "DEL")
	}
	if err != nil || n.recorded(t, "c") || total > begun+1+3 { // the interrupted one is deleted again
		t.Errorf("%v, %d DELs of %d networks", err, total, begun)
	}
}

// TestDelWaitsForDevices checks that the plugins are not run a second time if the lock on the devices of the node,
// which is not the sandbox's lock, cannot be acquired.
func TestDelWaitsForDevices(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	l, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"n","type":"other"}`))
	if err != nil {
		t.Fatal(err)
	}
	r := &ledger.Record{
		ContainerID: "c", Netns: "/run/netns/gone", BinDir: n.dir,
		Attachments: []ledger.Attachment{
			{Name: "n", Primary: true, IfName: "eth0", Config: l, HostDevice: &device.Identity{Name: "nosuch0", Index: 1 << 30}},
		},
	}
	if err := n.store.Write(r); err != nil {
		t.Fatal(err)
	}
	lock, err := fsx.Acquire(t.Context(), n.engine.deps.LockFile, hostdevice.LockKey)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	err = n.engine.Del(t.Context(), n.request(request.Del, "c", ""))
	if got := n.called(t); err == nil || got != "other DEL c" {
		t.Errorf("%v, called: %s", err, got)
	}
}

// TestDelOfNull checks that a DEL that fails ends with an error if the record has an element that is null.
func TestDelOfNull(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
	file := filepath.Join(n.store.Dir, "c")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(b, &elements); err != nil {
		t.Fatal(err)
	}
	b, err = json.Marshal([]json.RawMessage{json.RawMessage("null"), elements[1]})
	if err := errors.Join(err, os.WriteFile(file, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	n.does(t, "other", "exit 1")
	n.result(t, "other-net", "c", "net1")
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err == nil {
		t.Error("no error")
	}
}

// elsewhere is a planner whose daemon keeps the state in another directory (behaviour A90).
type elsewhere struct{ state string }

func (e elsewhere) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	p, err := planner{}.Plan(ctx, req, conf)
	p.Dirs.State, p.Netns, p.ContainerID = e.state, req.Netns, req.ContainerID
	return p, err
}

// TestStateElsewhere checks that every verb looks for leftover state in the state directory of the daemon's
// configuration.
func TestStateElsewhere(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"ADD", "collect", "after boot"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.engine.deps.Planner = elsewhere{n.store.Dir}
			boot := map[bool]string{true: "before", false: "now"}[verb == "after boot"]
			n.attached(t, "c", "other", "1.0.0", filepath.Join(n.dir, "gone"), boot)
			n.age(t, "c", time.Hour)
			configured := *n.store
			n.store = &ledger.Store{Dir: filepath.Join(n.dir, "configured")}
			req := n.request(request.Add, "c", "")
			if verb == "after boot" {
				req.ContainerID = "d"
			}
			if verb == "collect" {
				if _, err := n.engine.Collect(t.Context(), req, 0, false); err != nil {
					t.Error(err)
				}
			} else if _, err := n.engine.Add(t.Context(), req); err == nil { // there is no namespace
				t.Error("no error")
			}
			n.store = &configured
			if got := n.called(t); got != "other DEL c, cluster DEL c" {
				t.Errorf("called: %s", got)
			}
		})
	}
}

// TestAddAfterUndo checks that after a complete undo the next ADD of the container has nothing to delete.
func TestAddAfterUndo(t *testing.T) {
	t.Parallel()
	for _, undone := range []bool{true, false} {
		n := newNode(t, "cluster", "other")
		n.attached(t, "c", "other", "1.0.0", "/run/netns/gone", "now")
		if err := n.store.RecordProgress("c", ledger.Progress{Undone: undone}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.engine.Add(t.Context(), n.request(request.Add, "c", "")); err == nil { // there is no namespace
			t.Error("no error")
		}
		if got := n.called(t); (got == "") != undone {
			t.Errorf("undone %t, called: %s", undone, got)
		}
	}
}
