package fsx

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"multus/internal/failpoint"
)

const (
	// tempPrefix makes a temporary file hidden and marks it for Sweep, which removes no other files. The names have no
	// extension, so that a runtime that looks for *.conf, *.conflist and *.json in the directory never loads an incomplete
	// file.
	tempPrefix = ".multus-tmp-"
	// tempRandom is the number of random bytes in a temporary name, written as hex.
	tempRandom = 8
	// tempTries bounds the search for a free temporary name. With 64 random bits, even a second try is practically never
	// needed.
	tempTries = 8
)

// TempMaxAge is the age from which a temporary file of WriteAtomic no longer has a writer: no write takes that long.
const TempMaxAge = time.Minute

// WriteAtomic writes data to path with exactly the permissions perm (the umask does not apply). A reader of path, at
// any time and after a crash or a power loss at any point, finds either the old content or the new content, never a
// mixture, a part or an empty file.
//
// The directory must exist. A symbolic link at path is replaced, not followed. After an error, path is unchanged and no
// temporary file is left, with one exception: if the last step, the fsync of the directory, fails, the new content is
// in place but may not survive a power loss.
func WriteAtomic(path string, data []byte, perm os.FileMode) error {
	_, err := WriteAtomicIf(path, data, perm, func() bool { return true })
	return err
}

// WriteAtomicIf is WriteAtomic with a condition. It calls still after everything but the rename is on disk, so that no
// slow step is between the check of the old content and its replacement. If still returns false, it leaves path
// unchanged and returns false.
func WriteAtomicIf(path string, data []byte, perm os.FileMode, still func() bool) (written bool, err error) {
	temp, err := CreateTemp(filepath.Dir(path))
	if err != nil {
		return false, fmt.Errorf("write %q: %w", path, err)
	}
	failpoint.At("fsx.created")
	err = fill(temp, data, perm)
	if err == nil && !still() {
		return false, Remove(temp.Name())
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return false, errors.Join(fmt.Errorf("write %q: %w", path, err), Remove(temp.Name()))
	}
	failpoint.At("fsx.renamed")
	if failpoint.Skip("fsx.syncdir") {
		return true, nil
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return true, fmt.Errorf("write %q: %w", path, err)
	}
	return true, nil
}

// Replace is WriteAtomic for content that is not needed after a reboot of the node. The content survives the death of
// every process, but after a power loss path may be empty. It needs no fsync.
func Replace(path string, data []byte, perm os.FileMode) error {
	temp, err := CreateTemp(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("replace %q: %w", path, err)
	}
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(perm), temp.Close())
	failpoint.At("fsx.filled")
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("replace %q: %w", path, err), Remove(temp.Name()))
	}
	failpoint.At("fsx.replaced")
	return nil
}

// Remove removes the file at path. It is not an error if the file does not exist, so that a clean-up can be repeated.
// Unlike os.Remove, it refuses directories, even empty ones: a caller that has lost the last element of its path must
// not remove the directory. The removal is not synced: after a power loss the file may exist again.
func Remove(path string) error {
	if err := unlink(path); err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// Sweep removes the temporary files that killed processes left in dir, if they were last written longer than olderThan
// ago. A younger file may belong to a WriteAtomic in progress. Sweep removes nothing else. A directory that does not
// exist is not an error. Sweep continues after a failure and returns all errors.
func Sweep(dir string, olderThan time.Duration) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep %q: %w", dir, err)
	}
	var failed []error
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !isTemp(entry.Name()) {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // its writer has renamed or removed it
		}
		if err == nil && time.Since(info.ModTime()) > olderThan {
			err = Remove(filepath.Join(dir, entry.Name()))
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("sweep %q: %w", dir, err))
		}
	}
	return errors.Join(failed...)
}

// CreateTemp creates a new temporary file in dir, for content that is too large for WriteAtomic. The caller writes,
// syncs, closes and renames it. If the caller is killed before, Sweep removes it. Its mode is 0600. The name cannot be
// guessed and O_EXCL refuses an existing file, so no other user can place a link at that name.
func CreateTemp(dir string) (*os.File, error) {
	for try := 1; ; try++ {
		name, err := tempName()
		if err != nil {
			return nil, err
		}
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil || !errors.Is(err, fs.ErrExist) || try == tempTries {
			return f, err
		}
	}
}

func tempName() (string, error) {
	var b [tempRandom]byte
	if err := random(b[:]); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return tempPrefix + hex.EncodeToString(b[:]), nil
}

// isTemp reports whether name has the form of tempName.
func isTemp(name string) bool {
	random, ours := strings.CutPrefix(name, tempPrefix)
	if !ours {
		return false
	}
	b, err := hex.DecodeString(random)
	return err == nil && len(b) == tempRandom
}

// fill writes, syncs and closes f. It always closes f.
func fill(f *os.File, data []byte, perm os.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		failpoint.At("fsx.written")
		// Without the sync, a power loss after the rename can leave an empty file under the final name.
		if !failpoint.Skip("fsx.sync") {
			err = f.Sync()
		}
	}
	failpoint.At("fsx.synced")
	return errors.Join(err, f.Close())
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		// Some network and FUSE file systems have no fsync for directories. Nothing more can be done there.
		err = nil
	}
	return errors.Join(err, d.Close())
}
