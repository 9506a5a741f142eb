package engine

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
)

// recordNamed records a sandbox whose second network has a name that a tenant chose, as a version did that did not
// validate names.
func (n *node) recordNamed(t *testing.T, container, name, ifName string, types ...string) {
	t.Helper()
	plugins := make([]string, len(types))
	for i, typ := range types {
		plugins[i] = `{"type":"` + typ + `"}`
	}
	p := &plan.Plan{
		ContainerID: container, Netns: filepath.Join(n.dir, "netns", "gone"),
		Dirs: plan.Dirs{State: n.store.Dir, Binary: n.dir},
	}
	for i, conf := range []string{
		`{"cniVersion":"1.0.0","name":"cluster-net","type":"cluster"}`,
		`{"cniVersion":"1.0.0","name":"` + name + `","plugins":[` + strings.Join(plugins, ",") + `]}`,
	} {
		l, err := cniconf.Parse([]byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		p.Attachments = append(p.Attachments,
			plan.Attachment{Name: "team/n", Primary: i == 0, IfName: []string{"eth0", ifName}[i], Config: l})
	}
	if err := n.store.Write(ledger.NewRecord(p)); err != nil {
		t.Fatal(err)
	}
}

// TestHostileRecordRead checks a record of an older version whose network name leads out of the state directory. DEL
// must neither read the target of a link at that path nor leave its content there.
func TestHostileRecordRead(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster")
	tenant, secret := filepath.Join(n.dir, "tenant"), filepath.Join(n.dir, "shadow")
	link := filepath.Join(tenant, "a-c-net1")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(n.store.Dir, "results"), 0o700), os.Mkdir(tenant, 0o700),
		os.WriteFile(secret, []byte("root:secret"), 0o600), os.Symlink(secret, link),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n.recordNamed(t, "c", "../../tenant/a", "net1", "no-such-plugin")
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() {
		t.Errorf("the link was replaced by the content of the file that it leads to: %v, %v", info, err)
	}
	if n.recorded(t, "c") || n.called(t) != "cluster DEL c" {
		t.Error("the cluster network was not deleted, or the record is still there")
	}
}

// TestHostileRecordWrite is TestHostileRecordRead with a directory that becomes a link while a plugin runs. Nothing may
// be written to the link's target.
func TestHostileRecordWrite(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "swap")
	tenant, target := filepath.Join(n.dir, "tenant"), filepath.Join(n.dir, "cron.d")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(n.store.Dir, "results"), 0o700), os.MkdirAll(filepath.Join(tenant, "d"), 0o700),
		os.Mkdir(target, 0o700),
		os.WriteFile(filepath.Join(tenant, "d", "a-c-x.conf"), []byte("* * * * * root evil"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n.does(t, "swap", "mv "+tenant+"/d "+tenant+"/old; ln -s "+target+" "+tenant+"/d")
	n.recordNamed(t, "c", "../../tenant/d/a", "x.conf", "swap", "no-such-plugin")
	if err := n.engine.Del(t.Context(), n.request(request.Del, "c", "")); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if files, err := os.ReadDir(target); err != nil || len(files) > 0 {
		t.Errorf("written: %v, %v", files, err)
	}
}

// TestHostileResults checks files in the results directory that libcni did not write. None of them is followed, blocks
// a read or is taken for a sandbox elsewhere, and none keeps the sandboxes of the node from being freed.
func TestHostileResults(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster", "other")
	n.attached(t, "c", "other", "1.0.0", filepath.Join(n.dir, "netns", "gone"), "before")
	results, outside := filepath.Join(n.store.Dir, "results"), filepath.Join(n.dir, "outside")
	n.result(t, "cluster-net", "c", "eth0")
	n.result(t, "other-net", "escape", "net1")
	b := `{"kind":"cniCacheV1","containerId":"../../outside","config":"eyJuYW1lIjoibiIsInR5cGUiOiJvdGhlciJ9","ifName":"net1","networkName":"n"}`
	for _, err := range []error{
		os.WriteFile(outside, []byte("[]"), 0o600), os.Symlink(outside, filepath.Join(results, "n-c-net7")),
		os.WriteFile(filepath.Join(results, "n-x-net1"), []byte(b), 0o600), mkfifo(filepath.Join(results, "n-c-net8")),
		os.Symlink("/dev/zero", filepath.Join(n.store.Dir, "zero")), mkfifo(filepath.Join(n.store.Dir, "fifo")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() {
		got, err := n.engine.Collect(t.Context(), n.request(request.Del, "", ""), 0, false)
		for _, g := range got {
			if strings.Contains(g.ContainerID, "/") {
				t.Errorf("a sandbox outside of the directory: %+v", g)
			}
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for a writer of the pipe")
	}
	if n.recorded(t, "c") {
		t.Error("the sandbox was not freed")
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "[]" {
		t.Errorf("outside: %q, %v", got, err)
	}
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

// TestHostileDirectories checks a link in the place of a directory of the ledger. Nothing is read or written at its
// target, sandboxes are freed, and the log names what was removed.
func TestHostileDirectories(t *testing.T) {
	t.Parallel()
	for name, free := range map[string]func(*node) error{
		"DEL": func(n *node) error { return n.engine.Del(t.Context(), n.request(request.Del, "c", "")) },
		"collect": func(n *node) error {
			_, err := n.engine.Collect(t.Context(), n.request(request.Del, "", ""), 0, false)
			return err
		},
		"GC": func(n *node) error {
			return n.engine.GC(t.Context(), n.gcRequest(`,"cni.dev/valid-attachments":[]`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster", "other")
			n.attached(t, "c", "other", "1.0.0", filepath.Join(n.dir, "netns", "gone"), "before")
			n.resultOf(t, "other", "c", "net1")
			var log bytes.Buffer
			n.engine.deps.Log = slog.New(slog.NewTextHandler(&log, nil))
			links := []string{
				n.store.Dir + "/results", n.store.Dir + "/damaged", n.store.Dir + "-networks",
				n.store.Dir + "-abandoned",
			}
			for i, link := range links {
				outside := filepath.Join(n.dir, "outside", strconv.Itoa(i))
				if err := os.MkdirAll(filepath.Dir(outside), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(link, outside); err != nil {
					if err := os.Mkdir(outside, 0o700); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("root:secret"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(outside, link); err != nil {
					t.Fatal(err)
				}
			}
			before := tree(t, filepath.Join(n.dir, "outside"))
			if err := free(n); err != nil {
				t.Error(err)
			}
			if n.recorded(t, "c") {
				t.Error("the sandbox was not freed")
			}
			if diff := cmp.Diff(before, tree(t, filepath.Join(n.dir, "outside"))); diff != "" {
				t.Errorf("outside of the state directory (-before +after):\n%s", diff)
			}
			for _, link := range links {
				if info, err := os.Lstat(link); err == nil && info.Mode()&os.ModeSymlink != 0 {
					t.Errorf("%s is still a link", link)
				}
				if !strings.Contains(log.String(), link) {
					t.Errorf("the log does not name %s", link)
				}
			}
		})
	}
}

// tree returns the files below a directory with their content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
