// Package disk provides a disk that can lose its power. It is an ext4 file system on a loop device. A shutdown ioctl,
// the one that xfstests uses, makes the kernel discard what it has not written to the device: after the next mount,
// synced data is there and other data is lost, wholly or in part, as after a real power cut. The package makes no
// assertions. Only tests import it.
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
	// shutdown is EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32). noFlush is EXT4_GOING_FLAGS_NOLOGFLUSH: the journal in memory
	// is not written.
	shutdown = 0x8004587d
	noFlush  = 2
	// freeze and unfreeze are FIFREEZE and FITHAW, _IOWR('X', 119 and 120, int).
	freeze   = 0xc0045877
	unfreeze = 0xc0045878
	// options disable what the kernel does without a sync by the program: writing data at a rename, and a commit of the
	// journal every five seconds.
	options = "loop,noauto_da_alloc,commit=3600"
	// busy is how long unmounting is retried while processes that are about to end use the disk.
	busy = 20 * time.Second
)

// Disk is a file system that is mounted at Dir, except between Cut and Mount.
type Disk struct {
	Dir     string
	image   string
	boots   int
	mounted bool
}

// New creates an empty disk. It skips the test on a machine without root, loop devices or ext4.
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
		tb.Skipf("cannot create a disk here: mkfs.ext4: %v: %s", err, out)
	}
	if out, err := d.mount(tb); err != nil {
		tb.Skipf("cannot create a disk here: mount: %v: %s", err, out)
	}
	tb.Cleanup(func() { d.unmount(tb) })
	must(tb, os.RemoveAll(filepath.Join(d.Dir, "lost+found")))
	d.Sync(tb)
	return d
}

// Sync makes everything on the disk durable.
func (d *Disk) Sync(tb testing.TB) {
	tb.Helper()
	f, err := os.Open(d.Dir)
	must(tb, err)
	defer f.Close()
	must(tb, unix.Syncfs(int(f.Fd())))
}

// Cut simulates the loss of power. From then on nothing is written to the disk, and access to it fails with an I/O
// error. Cut skips the test if the kernel does not support it.
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

// Freeze makes the disk hang. Processes that write to it block and cannot be killed. The returned function undoes
// Freeze; so does the end of the test.
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

// Mount mounts the disk again after Cut, as a boot does. It mounts a copy of the image: if another mount namespace,
// such as that of a container started in the meantime, still holds the old mount, the kernel would return the file
// system that is shut down.
func (d *Disk) Mount(tb testing.TB) {
	tb.Helper()
	d.unmount(tb)
	old := d.image
	d.boots++
	d.image = fmt.Sprintf("%s.%d", strings.TrimSuffix(old, filepath.Ext(old)), d.boots)
	if out, err := exec.CommandContext(tb.Context(), "cp", "--sparse=always", old, d.image).CombinedOutput(); err != nil {
		tb.Fatalf("copy the image: %v: %s", err, out)
	}
	must(tb, os.Remove(old))
	if out, err := d.mount(tb); err != nil {
		tb.Fatalf("mount after power loss: %v: %s", err, out)
	}
}

func (d *Disk) mount(tb testing.TB) (string, error) {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), "mount", "-t", "ext4", "-o", options, d.image, d.Dir).CombinedOutput()
	d.mounted = err == nil
	return strings.TrimSpace(string(out)), err
}

func (d *Disk) unmount(tb testing.TB) {
	tb.Helper()
	if !d.mounted {
		return
	}
	d.mounted = false
	for end := time.Now().Add(busy); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(d.Dir, 0)
		if err == nil {
			return
		}
		if err != unix.EBUSY || time.Now().After(end) {
			tb.Errorf("unmount %s: %v", d.Dir, err)
			_ = unix.Unmount(d.Dir, unix.MNT_DETACH) // nothing stays mounted after the test
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
