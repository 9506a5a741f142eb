package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/fsx"
)

const (
	// executable is the mode of installed files, independent of the umask and the mode of the source.
	executable fs.FileMode = 0o755
	// lockLimit limits the wait for another installer. The lock avoids duplicate work, and shows which temporary files are
	// abandoned. All other guarantees hold without it. An installer that hangs must not stop the node's daemon from
	// starting.
	lockLimit = 30 * time.Second
	lockPause = 20 * time.Millisecond
	// inUse is the age up to which a temporary file may be in use if the lock was not acquired. noMinimumAge matches every
	// file, also after the clock was set back.
	inUse        = time.Hour
	noMinimumAge = time.Duration(math.MinInt64)
)

// place copies from to to, unless they have the same content.
func place(ctx context.Context, from, to string) (State, error) {
	equal, err := same(ctx, from, to)
	if err != nil {
		return "", err
	}
	if equal {
		return Equal, nil
	}
	temp, err := fsx.CreateTemp(filepath.Dir(to))
	if err != nil {
		return "", err
	}
	err = errors.Join(fill(ctx, temp, from), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), to)
	}
	if err != nil {
		return "", errors.Join(err, fsx.Remove(temp.Name()))
	}
	return Copied, nil
}

// same reports whether to is a regular file with the content of from. If only its mode differs, same corrects the mode,
// because a file that may be running is not replaced for that.
func same(ctx context.Context, from, to string) (bool, error) {
	source, err := os.Stat(from)
	if err != nil {
		return false, err
	}
	// Lstat, because a link that leads to the content now may lead elsewhere later.
	info, err := os.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() || info.Size() != source.Size() {
		return false, nil
	}
	want, err := digest(ctx, from)
	if err != nil {
		return false, err
	}
	have, err := digest(ctx, to)
	if err != nil || !bytes.Equal(have, want) {
		return false, err
	}
	if info.Mode() == executable {
		return true, nil
	}
	return true, os.Chmod(to, executable)
}

func digest(ctx context.Context, path string) (_ []byte, retErr error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { retErr = errors.Join(retErr, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, until{ctx, f}); err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return h.Sum(nil), nil
}

// fill copies from to temp and syncs it. Without the fsync, a power loss after the rename could leave an empty plugin.
func fill(ctx context.Context, temp *os.File, from string) (retErr error) {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	n, err := io.Copy(temp, until{ctx, f})
	if err != nil {
		return fmt.Errorf("copy %q: %w", from, err)
	}
	if n != info.Size() {
		return fmt.Errorf("copy %q: %d bytes of %d: it changed meanwhile", from, n, info.Size())
	}
	if err := temp.Chmod(executable); err != nil {
		return err
	}
	return temp.Sync()
}

// until is a reader that fails when its context has ended.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// directory is the CNI bin directory. It is open and, if possible, locked against other installers. The lock is on the
// directory itself, because a lock file among the plugins would remain. The lock ends with the process.
type directory struct {
	file   *os.File
	locked bool
}

func lockDir(ctx context.Context, path string) (*directory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open CNI bin directory: %w", err)
	}
	for deadline := time.Now().Add(lockLimit); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &directory{file: f, locked: true}, nil
		}
		// any other error means a file system without locks
		waiting := err == unix.EWOULDBLOCK || err == unix.EINTR
		if !waiting || time.Now().After(deadline) {
			return &directory{file: f}, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another installer: %w", ctx.Err()), f.Close())
		case <-time.After(lockPause):
		}
	}
}

func (d *directory) sync() error {
	err := d.file.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil // the file system does not support fsync of directories
	}
	return err
}

func (d *directory) close() { _ = d.file.Close() } // nothing was written
