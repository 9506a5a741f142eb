package e2e

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"multus/internal/testutil/node"
)

// TestNetworkNameIsNoPath checks that a network whose name is a path out of the state directory is refused before
// anything is recorded or executed, and that DEL does not touch files at that path. Both attacks require that ADD
// records the name.
func TestNetworkNameIsNoPath(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, nil, nil)
			tenant := t.TempDir()
			secret := filepath.Join(t.TempDir(), "shadow")
			if err := os.WriteFile(secret, []byte("root:secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			up := strings.Repeat("../", 12) + strings.TrimPrefix(tenant, "/")
			for name, config := range map[string]map[string]any{
				"read": {"cniVersion": "0.3.1", "name": up + "/a", "type": "no-such-plugin"},
				"write": {
					"cniVersion": "0.3.1", "name": up + "/d/a",
					"plugins": []any{map[string]any{"type": "fake-one"}, map[string]any{"type": "no-such-plugin"}},
				},
			} {
				f.define(t, name, config)
				p := f.pod(t, name)
				link := filepath.Join(tenant, "a-"+p.ContainerID+"-net1")
				if err := os.Symlink(secret, link); err != nil {
					t.Fatal(err)
				}
				_, err := f.Add(t, f.Conf(), p)
				if err == nil || !strings.Contains(err.Error(), "which CNI does not allow") || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: ADD: %v", name, err)
				}
				if _, err := os.Lstat(filepath.Join(f.State(), p.ContainerID)); !os.IsNotExist(err) {
					t.Errorf("%s: it is recorded: %v", name, err)
				}
				if err := f.Del(t, f.Conf(), p); err != nil {
					t.Errorf("%s: DEL: %v", name, err)
				}
				if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
					t.Errorf("%s: the link was replaced: %v", name, err)
				}
			}
			for _, call := range f.Calls(t) {
				if call.Command != "DEL" {
					t.Errorf("executed: %+v", call)
				}
			}
		})
	}
}

// TestReaderCannotBlock checks that a pod that has the directory of the daemon's socket mounted read-only cannot block
// other pods by locking every file in it. All verbs work, for plain pods and for others, also after a restart of the
// daemon.
func TestReaderCannotBlock(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFakes(t, kind, nil, nil)
			f.define(t, "net", map[string]any{"cniVersion": "1.0.0", "type": "fake-one"})
			pods := func() {
				t.Helper()
				for _, networks := range []string{"", "net"} {
					p := f.pod(t, networks)
					if _, err := f.Add(t, f.Conf(), p); err != nil {
						t.Fatalf("ADD of a pod with networks %q: %v", networks, err)
					}
					if err := f.Del(t, f.Conf(), p); err != nil {
						t.Fatalf("DEL of a pod with networks %q: %v", networks, err)
					}
				}
			}
			pods() // creates all files
			lockAll(t, "/run/multus")
			pods()
			if kind == node.Thick {
				f.StopDaemon(t) // the files that the daemon itself locks cannot be locked while it runs
				lockAll(t, f.SocketDir())
				f.StartDaemon(t)
				pods()
			}
		})
	}
}

// lockAll opens all files below dir read-only and locks each until the test ends.
func lockAll(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && !e.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		t.Cleanup(func() { file.Close() })
		// The whole file, including what is appended later.
		return unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart})
	})
	if err != nil {
		t.Fatal(err)
	}
}
