// Package disk is a disk that loses its power. It is an ext4 file system of its own, whose kernel is told to forget at
// once what it has not written for good (the shutdown that xfstests uses): what was synced is there after the next
// mount, what was not is lost, wholly or in part, as after a real power cut. It asserts nothing. Only tests import it.
package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	size = 64 << 20
	// shutdown is EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32); noFlush leaves the journal in memory where it is:
	// EXT4_GOING_FLAGS_NOLOGFLUSH.
	shutdown = 0x8004587d
	noFlush  = 2
	// freeze and unfreeze are FIFREEZE and FITHAW, _IOWR('X', 119 and 120, int).
	freeze   = 0xc0045877
	unfreeze = 0xc0045878
	// options make the kernel do nothing by itself that a program should have asked for: no writing of data at a rename,
	// no commit of the journal every five seconds.
	options = "loop,noauto_da_alloc,commit=3600"
	// busy is how long processes that still end may keep the disk from being unmounted.
	busy = 20 * time.Second
)

// Disk is mounted at Dir, except between Cut and Mount.
type Disk struct {
	Dir   string
	image string
	boots int
	there bool
}

// New makes an empty disk. It skips where the machine cannot: no root, no loop devices, no ext4.
func New(tb testing.TB) *Disk {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("a disk needs root")
	}
	top := tb.TempDir()
	d := &Disk{Dir: filepath.Join(top, "disk"), image: filepath.Join(top, "image.0")}
	must(tb, os.Mkdir(d.Dir, 0o755))
	f, err := os.Create(d.image)
	must(tb, err)
	must(tb, f.Truncate(size))
	must(tb, f.Close())
	if out, err := exec.CommandContext(tb.Context(), "mkfs.ext4", "-q", "-F", d.image).CombinedOutput(); err != nil {
		tb.Skipf("no disk can be made here: mkfs.ext4: %v: %s", err, out)
	}
	if out, err := d.mount(tb); err != nil {
		tb.Skipf("no disk can be made here: mount: %v: %s", err, out)
	}
	tb.Cleanup(func() { d.unmount(tb) })
	must(tb, os.RemoveAll(filepath.Join(d.Dir, "lost+found")))
	d.Sync(tb)
	return d
}

// Sync makes all that is on the disk durable.
func (d *Disk) Sync(tb testing.TB) {
	tb.Helper()
	f, err := os.Open(d.Dir)
	must(tb, err)
	defer f.Close()
	must(tb, unix.Syncfs(int(f.Fd())))
}

// Cut takes the power away: from now on nothing reaches the disk, and whoever asks it gets an I/O error. It skips where
// the kernel cannot.
func (d *Disk) Cut(tb testing.TB) {
	tb.Helper()
	f, err := os.Open(d.Dir)
	must(tb, err)
	defer f.Close()
	flags := uint32(noFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		tb.Skipf("this kernel does not shut ext4 down: %v", errno)
	}
}

// Freeze makes the disk hang: whoever writes to it waits, and cannot be killed meanwhile. The function that it returns
// ends that; the test's end does so too.
func (d *Disk) Freeze(tb testing.TB) (thaw func()) {
	tb.Helper()
	f, err := os.Open(d.Dir)
	must(tb, err)
	if err := unix.IoctlSetInt(int(f.Fd()), freeze, 0); err != nil {
		_ = f.Close()
		tb.Skipf("this kernel does not freeze ext4: %v", err)
	}
	thaw = sync.OnceFunc(func() {
		must(tb, errors.Join(unix.IoctlSetInt(int(f.Fd()), unfreeze, 0), f.Close()))
	})
	tb.Cleanup(thaw)
	return thaw
}

// Mount brings the disk back after Cut, as a boot does. It is a copy of what was on the disk: a process that has
// another mount namespace, a container that was started meanwhile, may still hold the old one, and would get it shut
// down.
func (d *Disk) Mount(tb testing.TB) {
	tb.Helper()
	d.unmount(tb)
	old := d.image
	d.boots++
	d.image = fmt.Sprintf("%s.%d", strings.TrimSuffix(old, filepath.Ext(old)), d.boots)
	if out, err := exec.CommandContext(tb.Context(), "cp", "--sparse=always", old, d.image).CombinedOutput(); err != nil {
		tb.Fatalf("copy what is on the disk: %v: %s", err, out)
	}
	must(tb, os.Remove(old))
	if out, err := d.mount(tb); err != nil {
		tb.Fatalf("mount after power loss: %v: %s", err, out)
	}
}

func (d *Disk) mount(tb testing.TB) (string, error) {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), "mount", "-t", "ext4", "-o", options, d.image, d.Dir).CombinedOutput()
	d.there = err == nil
	return strings.TrimSpace(string(out)), err
}

func (d *Disk) unmount(tb testing.TB) {
	tb.Helper()
	if !d.there {
		return
	}
	d.there = false
	for end := time.Now().Add(busy); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(d.Dir, 0)
		if err == nil {
			return
		}
		if err != unix.EBUSY || time.Now().After(end) {
			tb.Errorf("unmount %s: %v", d.Dir, err)
			_ = unix.Unmount(d.Dir, unix.MNT_DETACH) // nothing of the test stays mounted
			return
		}
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
