package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
)

// damages replace a record by something that cannot be read completely.
var damages = map[string]func(file string) error{
	"link":         func(file string) error { return os.Symlink("/dev/null", file) },
	"directory":    func(file string) error { return os.Mkdir(file, 0o700) },
	"pipe":         mkfifo,
	"too large":    writeLarge,
	"cut off":      func(file string) error { return os.WriteFile(file, []byte(`[{"Bytes":`), 0o600) },
	"empty":        func(file string) error { return os.WriteFile(file, nil, 0o600) },
	"null element": func(file string) error { return os.WriteFile(file, []byte(`[null]`), 0o600) },
	"not a list":   func(file string) error { return os.WriteFile(file, []byte("\x00\x00\x00"), 0o600) },
}

func writeLarge(file string) error {
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(file, 1<<30) // a sparse file
}

// damage replaces the record of a container.
func (n *node) damage(t *testing.T, container string, put func(file string) error) {
	t.Helper()
	file := filepath.Join(n.store.Dir, container)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := put(file); err != nil {
		t.Fatal(err)
	}
}

// there reports whether anything is in the place of a record.
func (n *node) there(container string) bool {
	_, err := os.Lstat(filepath.Join(n.store.Dir, container))
	return err == nil
}

// TestGCDamagedLives checks that GC calls no delegate while the runtime lists a container whose record is damaged. This
// holds for every later GC, too, and after the damaged record was set aside. After the container's DEL, GC calls the
// delegates again.
func TestGCDamagedLives(t *testing.T) {
	t.Parallel()
	for name, put := range damages {
		for _, aside := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", set aside"}[aside], func(t *testing.T) {
				t.Parallel()
				n := newNode(t, "cluster", "new")
				n.attached(t, "live", "new", "1.1.0", "/run/netns/x", "now")
				n.damage(t, "live", put)
				if aside { // as a failed ADD of the same container does
					if _, err := n.store.Read("live", "eth0"); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 {
					err := n.engine.GC(t.Context(), n.request(request.GC, "", valid("live")))
					if err == nil || !strings.Contains(err.Error(), "container live") || n.called(t) != "" {
						t.Errorf("GC: %v", err)
					}
				}
				if noted, err := n.store.Networks(); err != nil || len(noted) != 2 {
					t.Errorf("noted: %v, %v", noted, err)
				}
				if err := n.engine.Del(t.Context(), n.request(request.Del, "live", "")); err != nil {
					t.Fatal(err)
				}
				n.called(t)
				if err := n.engine.GC(t.Context(), n.request(request.GC, "", valid("live"))); err != nil ||
					!strings.Contains(n.called(t), "new GC") {
					t.Errorf("GC after DEL: %v", err)
				}
				if kept, err := n.store.Damaged(); err != nil || len(kept) != 1 {
					t.Errorf("kept: %v, %v", kept, err)
				}
			})
		}
	}
}

// TestGCDamagedGone checks that the damaged record of a container that is not listed is freed as far as it can be read,
// is set aside, and is not an error.
func TestGCDamagedGone(t *testing.T) {
	t.Parallel()
	for name, put := range damages {
		for _, list := range []string{valid("d"), `,"cni.dev/valid-attachments":null`} {
			t.Run(name+list, func(t *testing.T) {
				t.Parallel()
				n := newNode(t, "cluster", "new")
				n.attached(t, "gone", "new", "1.1.0", "/run/netns/x", "now")
				n.resultOf(t, "new", "gone", "net1")
				n.damage(t, "gone", put)
				if err := n.engine.GC(t.Context(), n.request(request.GC, "", list)); err != nil {
					t.Error(err)
				}
				if got := n.called(t); !strings.HasPrefix(got, "new DEL gone, ") || !strings.Contains(got, "new GC") ||
					!strings.Contains(got, "cluster GC") {
					t.Errorf("called: %s", got)
				}
				if kept, err := n.store.Damaged(); err != nil || len(kept) != 1 || n.there("gone") {
					t.Errorf("kept: %v, %v; the record is there: %t", kept, err, n.there("gone"))
				}
			})
		}
	}
}

// TestGCForeignFiles checks that GC leaves files of other programs alone. host-local keeps its files in the state
// directory if a definition's dataDir says so. They are neither records nor damaged records, and they must stay because
// they hold the allocated addresses. A file that looks like the rest of a record is set aside.
func TestGCForeignFiles(t *testing.T) {
	t.Parallel()
	for _, list := range []string{valid("c"), valid()} {
		n := newNode(t, "cluster", "new")
		n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
		foreign := map[string]string{"lock": "", "last_reserved_ip.0": "10.0.0.9", "10.0.0.9": "c\r\nnet1", "x.bak": "{}"}
		for name, content := range foreign {
			if err := os.WriteFile(filepath.Join(n.store.Dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeLarge(filepath.Join(n.store.Dir, "large.bak")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(n.store.Dir, "tenant-net"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(n.store.Dir, "rest"), []byte(`[{"Name":"a`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.engine.GC(t.Context(), n.request(request.GC, "", list)); err != nil {
			t.Error(err)
		}
		if got := n.called(t); !strings.Contains(got, "new GC") || !strings.Contains(got, "cluster GC") {
			t.Errorf("called: %s", got)
		}
		for name := range foreign {
			if !n.there(name) {
				t.Errorf("%s is gone", name)
			}
		}
		if n.there("rest") || !n.there("tenant-net") {
			t.Error("the rest of a record stays, or the directory of another program is gone")
		}
	}
}

// TestCollectDamaged checks that Collect frees the sandbox of a damaged record if the readable part proves that it is
// gone. Otherwise the record stays and is reported. Files of other programs are not reported.
func TestCollectDamaged(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new")
	for _, id := range []string{"proved", "unknown"} {
		n.attached(t, id, "new", "1.1.0", filepath.Join(n.dir, "gone"), "before")
	}
	file := filepath.Join(n.store.Dir, "proved")
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.TrimSuffix(strings.TrimSpace(string(b)), "]")+`,null]`), 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(n.store.Dir, "lock"), nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.damage(t, "unknown", damages["cut off"])
	for _, dry := range []bool{true, false} {
		found, err := n.engine.Collect(t.Context(), n.request(request.Del, "", ""), 0, dry)
		if err != nil || len(found) != 2 {
			t.Fatalf("%+v, %v", found, err)
		}
		for _, g := range found {
			if proved := g.ContainerID == "proved"; (g.Err == nil) != proved || g.Freed != (proved && !dry) ||
				n.there(g.ContainerID) == g.Freed {
				t.Errorf("dry %t: %+v", dry, g)
			}
		}
	}
	if got := n.called(t); got != "new DEL proved, cluster DEL proved" {
		t.Errorf("called: %s", got)
	}
	var kept []string
	if kept, err = n.store.Damaged(); err != nil || len(kept) != 1 {
		t.Errorf("kept: %v, %v", kept, err)
	}
}

// TestCheckEachDamaged checks that CheckEach leaves a damaged record in its place.
func TestCheckEachDamaged(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "new")
	n.attached(t, "c", "new", "1.1.0", "/run/netns/x", "now")
	n.damage(t, "c", damages["link"])
	if _, err := n.engine.CheckEach(t.Context(), n.request(request.Check, "c", "")); err == nil || !n.there("c") {
		t.Errorf("%v, there: %t", err, n.there("c"))
	}
	if r, err := n.store.Survey("c", ledger.DefaultIfName); err != nil || !r.Damaged {
		t.Errorf("%+v, %v", r, err)
	}
}
