package faults

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"multus/internal/testutil/disk"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// volume is a small tmpfs that a test can fill.
type volume struct{ dir string }

// newVolume mounts an empty volume at dir.
func newVolume(t *testing.T, dir, options string) *volume {
	t.Helper()
	testnet.RequireRoot(t)
	check(t, os.MkdirAll(dir, 0o755))
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return &volume{dir}
}

// fill leaves space for n pages. The returned function frees the space.
func (v *volume) fill(t *testing.T, n int) func() {
	t.Helper()
	var stat unix.Statfs_t
	check(t, unix.Statfs(v.dir, &stat))
	path := filepath.Join(v.dir, "filler")
	used := max(0, int(stat.Bavail)-n) * int(stat.Bsize)
	check(t, os.WriteFile(path, bytes.Repeat([]byte{1}, used), 0o600))
	return func() { check(t, os.Remove(path)) }
}

// useUp leaves n inodes. The returned function frees the inodes.
func (v *volume) useUp(t *testing.T, n int) func() {
	t.Helper()
	dir := filepath.Join(v.dir, "fillers")
	check(t, os.Mkdir(dir, 0o700))
	var stat unix.Statfs_t
	check(t, unix.Statfs(v.dir, &stat))
	for i := range max(0, int(stat.Ffree)-n) {
		check(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600))
	}
	return func() { check(t, os.RemoveAll(dir)) }
}

// readOnly remounts the volume read-only. The returned function makes it writable again.
func (v *volume) readOnly(t *testing.T, _ int) func() {
	t.Helper()
	remount := func(flags uintptr) { check(t, unix.Mount("", v.dir, "", unix.MS_REMOUNT|flags, "")) }
	remount(unix.MS_RDONLY)
	return func() { remount(0) }
}

const volumeSize = "size=2m,nr_inodes=200"

// shortages are faults of the file system that contains the state directory.
var shortages = []struct {
	name, says string
	begin      func(v *volume, t *testing.T, n int) func()
	// rooms is the number of values of n that are tried. With each value ADD can write more.
	rooms int
	// dels reports whether DEL frees everything during the shortage.
	dels bool
}{
	{"no space", "no space left", (*volume).fill, 10, true},
	{"no inodes", "no space left", (*volume).useUp, 10, true},
	{"read-only", "read-only file system", (*volume).readOnly, 1, false},
}

// TestStateDirectory checks a state directory whose file system is full, without free inodes or read-only, from the
// beginning of an ADD or in the middle of it. ADD succeeds, or fails with the reason and leaves nothing attached. DEL
// frees everything if files can be removed, and otherwise as soon as they can.
func TestStateDirectory(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, k int, kind node.Kind) {
		testnet.RequireRoot(t)
		v := newVolume(t, filepath.Join(t.TempDir(), "v"), volumeSize)
		s := newSiteAt(t, node.Options{Kind: kind, StateDir: filepath.Join(v.dir, "multus")}, two)
		for _, f := range shortages {
			r := table.row(fmt.Sprintf("state directory: %s, %s", f.name, kind))
			fault := func(n int) func() { return f.begin(v, t, n) }
			failed := 0
			for n := range f.rooms {
				if long() || n%4 == 2*k || n == 0 {
					failed += s.shortOf(t, r, fmt.Sprintf("%s, room %d", f.name, n), f.says, func() func() { return fault(n) })
				}
			}
			shown(t, failed)
			s.withoutRecord(t, r, f.name, func() func() { return fault(0) })
			s.recordedInShortage(t, r, f.name, f.dels, func() func() { return fault(0) })
			s.collectInShortage(t, r, f.name, f.dels, func() func() { return fault(0) })
		}
	})
}

// shortOf adds the site's pod during a fault. It returns 1 if ADD failed.
func (s *site) shortOf(t *testing.T, r *row, what, says string, begin func() func()) (failed int) {
	t.Helper()
	s.removeNetworks(t)
	end := begin()
	err := s.call(t, "ADD")
	if err != nil {
		failed = 1
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%s: ADD: %v, want %q in it", what, err, says)
		}
		if left := interfaces(t, s.pod.NS); len(left) > 0 {
			r.bad(t, &r.interfaces, len(left), "%s: ADD fails and leaves %v", what, left)
		}
	}
	end()
	s.recover(t, r, false, fmt.Sprintf("%s (ADD: %v)", what, err))
	return failed
}

// withoutRecord deletes a pod without a record during a fault. DEL has nothing to write then.
func (s *site) withoutRecord(t *testing.T, r *row, what string, begin func() func()) {
	t.Helper()
	r.try()
	end := begin()
	s.delOnce(t, r, what+", without a record")
	end()
	s.clean(t, r, what+", without a record")
}

// recordedInShortage deletes an attached pod during a fault. Its interfaces are deleted at once, and its record as soon
// as it can be removed.
func (s *site) recordedInShortage(t *testing.T, r *row, what string, dels bool, begin func() func()) {
	t.Helper()
	r.try()
	s.attach(t)
	end := begin()
	for range delTries {
		err := s.call(t, "DEL")
		if dels && err != nil {
			r.bad(t, &r.stuck, 1, "%s: DEL: %v", what, err)
		}
		if !dels && err == nil {
			r.bad(t, &r.records, 1, "%s: DEL succeeds while the record cannot be removed: %v", what, s.Left(t))
		}
	}
	if left := interfaces(t, s.pod.NS); len(left) > 0 {
		r.bad(t, &r.interfaces, len(left), "%s: DEL leaves %v", what, left)
	}
	end()
	s.recover(t, r, false, what+", DEL")
}

// collectInShortage runs GC without the attached pod in its list, during a fault and after it.
func (s *site) collectInShortage(t *testing.T, r *row, what string, dels bool, begin func() func()) {
	t.Helper()
	r.try()
	s.attach(t)
	end := begin()
	err := s.gc(t, nil)
	if dels && err != nil {
		r.bad(t, &r.stuck, 1, "%s: GC: %v", what, err)
	}
	if left := interfaces(t, s.pod.NS); len(left) > 0 {
		r.bad(t, &r.interfaces, len(left), "%s: GC leaves %v", what, left)
	}
	end()
	if err := s.gc(t, nil); err != nil {
		r.bad(t, &r.stuck, 1, "%s: GC after the fault: %v", what, err)
	}
	s.clean(t, r, what+", GC")
}

// TestDiskErrors checks ADD, DEL and GC while each access to the file system of the state directory fails with an I/O
// error. They fail with that reason, and no reserved address is lost. After the disk is mounted again, DEL frees
// everything.
func TestDiskErrors(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newPowerSite(t, kind, two)
		r := table.row("state directory: I/O errors, " + string(kind))
		for _, verb := range []string{"ADD", "DEL", "GC"} {
			r.try()
			if verb != "ADD" {
				s.attach(t)
			}
			s.disk.Sync(t)
			s.disk.Cut(t)
			for range delTries {
				err := s.ask(t, verb)
				if err == nil || !strings.Contains(err.Error(), unix.EIO.Error()) {
					r.bad(t, &r.stuck, 1, "%s: %v, want an I/O error", verb, err)
				}
			}
			if left := interfaces(t, s.pod.NS); verb == "ADD" && len(left) > 0 {
				r.bad(t, &r.interfaces, len(left), "ADD leaves %v", left)
			}
			s.disk.Mount(t)
			s.recover(t, r, false, "after "+verb)
		}
	})
}

// ask runs a verb for the site's pod. GC runs without valid attachments.
func (s *site) ask(t *testing.T, verb string) error {
	t.Helper()
	if verb == "GC" {
		return s.gc(t, nil)
	}
	return s.call(t, verb)
}

// TestDiskHangs checks a state directory whose file system hangs (FIFREEZE), so that a plugin cannot even be killed.
// The runtime gives up. When the disk works again, DEL frees everything.
func TestDiskHangs(t *testing.T) {
	t.Parallel()
	d := disk.New(t)
	s := newSiteAt(t, node.Options{Kind: node.Thin, StateDir: filepath.Join(d.Dir, "multus")}, two)
	r := table.row("state directory hangs")
	for _, verb := range []string{"ADD", "DEL"} {
		r.try()
		if verb == "DEL" {
			s.attach(t)
		}
		thaw := d.Freeze(t)
		p := s.start(t, s.pod, verb)
		waitFor(t, verb+" waits for the disk", func() bool { return asleep(p.Process.Pid) })
		check(t, p.Process.Kill())
		thaw()
		if err := p.end(); !errors.Is(err, errKilled) {
			t.Errorf("%s: %v, want it killed", verb, err)
		}
		s.recover(t, r, false, verb+" on a disk that hangs")
	}
}

// asleep reports whether a thread of a process is in an uninterruptible wait.
func asleep(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), ") D ") {
			return true
		}
	}
	return false
}

// TestShortageIsNoRefusal checks a plugin that cannot free its resources because of a shortage on the node and returns
// its own error at each DEL, with and without the pod's namespace. However often the runtime repeats DEL, the
// attachment is kept. DEL frees it once that is possible.
func TestShortageIsNoRefusal(t *testing.T) {
	t.Parallel()
	for k, kind := range node.Kinds {
		for i, gone := range []bool{false, true} {
			if !long() && i == k {
				continue
			}
			t.Run(fmt.Sprintf("%s/gone=%v", kind, gone), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, kind, two, nil)
				v := newVolume(t, filepath.Join(s.Dir, "held"), volumeSize)
				s.variant.networks = `[{"name":"plain"},{"name":"holds"}]`
				s.script(t, "holds", `held="$dir/held/$CNI_CONTAINERID"
case $CNI_COMMAND in
ADD) touch "$held";;
DEL) said=$(rm -f "$held" 2>&1) || { echo "{\"code\":100,\"msg\":\"free address: ${said##*: }\"}"; exit 1; };;
esac`)
				s.newPod(t)
				r := table.row("plugin cannot free what it holds for a while, " + string(kind))
				r.try()
				s.attach(t)
				if gone {
					check(t, testnet.Delete(s.pod.Path))
				}
				end := v.readOnly(t, 0)
				for range 12 {
					err := s.call(t, "DEL")
					if err == nil {
						r.bad(t, &r.addresses, 1, "DEL succeeds while an address is held")
						break
					}
					if !strings.Contains(err.Error(), "Read-only file system") {
						t.Errorf("DEL: %v, want the plugin's error", err)
					}
				}
				end()
				s.del(t, r, "writable again")
				if held, err := os.ReadDir(v.dir); err != nil || len(held) > 0 {
					r.bad(t, &r.addresses, 1, "still held: %v, %v", held, err)
				}
				s.clean(t, r, "writable again")
			})
		}
	}
}
