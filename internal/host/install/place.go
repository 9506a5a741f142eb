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
	// executable is the mode of installed files, whatever the umask and the source's mode.
	executable fs.FileMode = 0o755
	// lockLimit is how long another installer is waited for. The lock keeps two from doing the same work and tells
	// which temporary files have lost their writer; an installer that hangs must not keep the node's daemon from
	// starting, and without the lock everything else holds.
	lockLimit = 30 * time.Second
	lockPause = 20 * time.Millisecond
	// inUse is the age up to which a temporary file may have a writer, where the lock cannot tell; anyAge is older
	// than nothing, clocks that were set back included.
	inUse  = time.Hour
	anyAge = time.Duration(math.MinInt64)
)

// place makes to hold what from holds, unless it does.
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

// same tells whether to is a regular file with the content of from. One that only lost its mode gets it back: that is
// no reason to replace a file that may be running.
func same(ctx context.Context, from, to string) (bool, error) {
	source, err := os.Stat(from)
	if err != nil {
		return false, err
	}
	// Not through a link: a name that only points to the content may point elsewhere tomorrow.
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

// fill streams from into temp and makes it durable: without the fsync a power cut after the rename can leave an empty
// plugin.
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

// until ends a copy with its context.
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

// directory is the CNI bin directory, open and, if that is possible, locked against other installers. The lock is on
// the directory itself: a lock file among the plugins would be something that is left behind. It ends with the process.
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
		// Another error than these: a filesystem without locks.
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
		return nil // a filesystem without fsync for directories
	}
	return err
}

func (d *directory) close() { _ = d.file.Close() } // it was only read
