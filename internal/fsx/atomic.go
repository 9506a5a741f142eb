package fsx

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/failpoint"
)

const (
	// tempPrefix makes a temp file hidden, and ours: Sweep removes nothing else. There is no extension, so that a
	// runtime that looks for *.conf, *.conflist and *.json in the directory never loads a half-written file.
	tempPrefix = ".multus-tmp-"
	// tempRandom is the number of random bytes in a temp name, written as hex.
	tempRandom = 8
	// tempTries bounds the search for a free temp name; with 64 random bits a second try is already unheard of.
	tempTries = 8
)

// Abandoned is the age at which a temp file of WriteAtomic has lost its writer: no write takes as long.
const Abandoned = time.Minute

// WriteAtomic makes path hold data with exactly the permissions perm (the umask does not apply). Whoever reads
// path, at any time and after a crash or a power cut at any point, finds the old content or the new content and
// never a mixture, a part or an empty file (style.md rule 26).
//
// The directory must exist. A symbolic link at path is replaced, not followed. On an error path is unchanged and no
// temp file is left, with one exception: if the last step, the fsync of the directory, fails, the new content is in
// place but may not survive a power cut.
func WriteAtomic(path string, data []byte, perm os.FileMode) error {
	_, err := WriteAtomicIf(path, data, perm, func() bool { return true })
	return err
}

// WriteAtomicIf is WriteAtomic if still holds when everything is on disk but for the rename, so that no slow step is
// between the look at what is replaced and its replacement. Otherwise it leaves path as it is, and reports that it was
// not written.
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

// Replace is WriteAtomic for what means nothing after the node has rebooted: the content survives the death of every
// process, not a power cut, after which path may be empty. It costs no fsync.
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

// Remove deletes the file at path. A file that is not there is success, so that clean-up can be repeated. It
// refuses directories, even empty ones, unlike os.Remove: a caller that has lost the last element of its path must
// not remove its directory. The removal is not synced: after a power cut the file may be back.
func Remove(path string) error {
	for {
		err := unix.Unlink(path)
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.EINTR:
			continue
		case unix.EROFS: // before the kernel looks whether there is such a file
			if _, lerr := os.Lstat(path); errors.Is(lerr, fs.ErrNotExist) {
				return nil
			}
		}
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
}

// Sweep removes the temp files that killed processes left in dir, if they were last written longer than olderThan
// ago; a younger one may belong to a WriteAtomic at work. Nothing else is touched. A directory that does not exist
// holds no temp files and is no error. It carries on after a failure and returns all of them.
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
			continue // its writer renamed or removed it meanwhile
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

// CreateTemp makes a new file in dir, for content that is too large for WriteAtomic; the caller fills, syncs, closes
// and renames it, and Sweep removes it if the caller is killed before. Its mode is 0600. The name cannot be guessed and
// O_EXCL refuses whatever is there already, so nobody can place a link under it.
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

// tempName asks the kernel for randomness itself: crypto/rand would add its start-up work to the plugin.
func tempName() (string, error) {
	var random [tempRandom]byte
	for {
		n, err := unix.Getrandom(random[:], 0)
		if err == nil && n == len(random) { // up to 256 bytes come whole
			return tempPrefix + hex.EncodeToString(random[:]), nil
		}
		if err != nil && err != unix.EINTR {
			return "", fmt.Errorf("read random bytes: %w", err)
		}
	}
}

// isTemp tells whether name is one that tempName makes.
func isTemp(name string) bool {
	random, ours := strings.CutPrefix(name, tempPrefix)
	if !ours {
		return false
	}
	b, err := hex.DecodeString(random)
	return err == nil && len(b) == tempRandom
}

// fill writes, syncs and closes f. It always closes.
func fill(f *os.File, data []byte, perm os.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		failpoint.At("fsx.written")
		// Without it a power cut after the rename can leave an empty file under the final name.
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
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		// Some network and FUSE filesystems have no fsync for directories; there is nothing more to do there.
		err = nil
	}
	return errors.Join(err, d.Close())
}
