package link_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"multus/internal/link"
	"multus/internal/testutil/leak"
	"multus/internal/testutil/testnet"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestOpen(t *testing.T) {
	testnet.RequireRoot(t)
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := testnet.New(t)
	if err := testnet.Delete(gone.Path); err != nil {
		t.Fatal(err)
	}
	unmounted := testnet.New(t)
	if err := unix.Unmount(unmounted.Path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		want       string // in the error after the path; "" for success
	}{
		{"named", testnet.New(t).Path, ""},
		{"of a process", "/proc/self/ns/net", ""},
		{"empty path", "", "no such file or directory"},
		{"missing", filepath.Join(dir, "missing"), "no such file or directory"},
		{"below a file", filepath.Join(file, "x"), "not a directory"},
		{"process is gone", "/proc/4194304/ns/net", "no such file or directory"}, // above the maximum process ID
		{"removed", gone.Path, "no such file or directory"},
		{"unmounted", unmounted.Path, "not a namespace"},
		{"file", file, "not a namespace"},
		{"directory", dir, "not a namespace"},
		{"FIFO", fifo, "not a namespace"},
		{"device", "/dev/null", "not a namespace"},
		{"other namespace", "/proc/self/ns/mnt", "a namespace of another type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns, err := link.Open(tt.path)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if ns.Path() != tt.path {
					t.Errorf("path %q, want %q", ns.Path(), tt.path)
				}
				if err := ns.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, link.ErrNoNamespace) {
				t.Errorf("error %v, want %v", err, link.ErrNoNamespace)
			}
			if start := fmt.Sprintf("open network namespace %q: ", tt.path); !strings.HasPrefix(err.Error(), start) {
				t.Errorf("error %q does not begin with %q", err, start)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not contain %q", err, tt.want)
			}
		})
	}
}

func TestOpenUnreadable(t *testing.T) {
	testnet.RequireRoot(t)
	// A loop of links represents any failure that does not show whether there is a namespace.
	path := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(path, path); err != nil {
		t.Fatal(err)
	}
	if _, err := link.Open(path); err == nil || errors.Is(err, link.ErrNoNamespace) {
		t.Errorf("error %v, want one that is not %v", err, link.ErrNoNamespace)
	}
}

func TestDo(t *testing.T) {
	file := testnet.New(t)
	outside := namespaceOf(t)
	ns := open(t, file)
	var inside string
	want := errors.New("of the callback")
	err := ns.Do(func() error {
		inside = namespaceOf(t)
		return want
	})
	if !errors.Is(err, want) {
		t.Errorf("error %v, want that of the callback", err)
	}
	if inside == outside {
		t.Error("the callback ran outside")
	}
	if err := ns.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("a callback that does not return is not an error")
	}
	// Every thread that this or another goroutine may get must be in its own namespace.
	for range 20 {
		done := make(chan string)
		go func() { done <- namespaceOf(t) }()
		if got := <-done; got != outside {
			t.Fatalf("a thread is left in %s", got)
		}
	}
}

func TestClosed(t *testing.T) {
	ns, err := link.Open(testnet.New(t).Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ns.HasInterface("lo"); err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	_, listing := ns.Interfaces()
	for what, err := range map[string]error{
		"Close": ns.Close(), "Interfaces": listing, "Do": ns.Do(func() error { return nil }),
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: error %v, want %v", what, err, os.ErrClosed)
		}
	}
}

// TestVanished checks that an open namespace survives the removal of its path, as in a race of DEL with the runtime.
func TestVanished(t *testing.T) {
	file := testnet.New(t)
	ns := open(t, file)
	if err := testnet.Delete(file.Path); err != nil {
		t.Fatal(err)
	}
	if there, err := ns.HasInterface("lo"); !there || err != nil {
		t.Errorf("lo: %v, %v", there, err)
	}
}

func TestHasInterface(t *testing.T) {
	file := testnet.New(t)
	testnet.Veth(t, file, "net1", file, "with.dot")
	ns := open(t, file)
	for name, want := range map[string]bool{
		"lo": true, "net1": true, "with.dot": true, "net": false, "net11": false, "": false, "all": false,
		"a-name-longer-than-any": false,
	} {
		if got, err := ns.HasInterface(name); got != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", name, got, err, want)
		}
	}
}

func TestInterfaces(t *testing.T) {
	file, peer := testnet.New(t), testnet.New(t)
	testnet.Veth(t, file, "net1", peer, "peer")
	testnet.Bridge(t, file, "br0")
	testnet.Addr(t, file, "net1", "192.0.2.7/24", "2001:db8::7/64")
	got, err := open(t, file).Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].Name != "lo" && len(got[i].MAC) != len("02:00:00:00:00:01") {
			t.Errorf("%s has MAC %q", got[i].Name, got[i].MAC)
		}
		// The kernel's own link-local addresses appear at any time.
		got[i].Addrs = slices.DeleteFunc(got[i].Addrs, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	}
	want := []link.Interface{
		{Name: "lo", MTU: 65536, Type: "device", Up: true, Addrs: prefixes("127.0.0.1/8", "::1/128")},
		{Name: "net1", MTU: 1500, Type: "veth", Up: true, Addrs: prefixes("192.0.2.7/24", "2001:db8::7/64")},
		{Name: "br0", MTU: 1500, Type: "bridge", Up: true},
	}
	options := cmp.Options{
		cmpopts.IgnoreFields(link.Interface{}, "MAC", "Index"),
		cmpopts.EquateEmpty(),
		cmpopts.EquateComparable(netip.Prefix{}),
	}
	if diff := cmp.Diff(want, got, options); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
}

func open(t *testing.T, file *testnet.NS) *link.Namespace {
	t.Helper()
	ns, err := link.Open(file.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// namespaceOf returns the namespace of the calling thread. It is called from other goroutines than the test's.
func namespaceOf(t *testing.T) string {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return name
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// TestOwnNamespace checks that a process without the permission to enter namespaces, such as a pod in the network of
// its node, can inspect its own namespace and no other (doctor and explain run in the daemon's pod).
func TestOwnNamespace(t *testing.T) {
	const asked = "MULTUS_TEST_OWN_NAMESPACE"
	if path := os.Getenv(asked); path != "" {
		ns, err := link.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		links, err := ns.Devices()
		t.Logf("seen: %t, error: %v", len(links) > 0, err)
		return
	}
	testnet.RequireRoot(t)
	for path, want := range map[string]string{
		link.NodeNamespace:  "seen: true, error: <nil>",
		"/proc/self/ns/net": "seen: true, error: <nil>",
		testnet.New(t).Path: "operation not permitted",
	} {
		out := make(chan []byte)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread has lost a capability
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0); err != nil {
				out <- []byte(err.Error())
				return
			}
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestOwnNamespace$", "-test.v")
			cmd.Env = append(os.Environ(), asked+"="+path)
			b, _ := cmd.CombinedOutput() // the output is checked
			out <- b
		}()
		if b := <-out; !strings.Contains(string(b), want) {
			t.Errorf("%s: %s, want %s", path, b, want)
		}
	}
}
