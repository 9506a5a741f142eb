package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"multus/internal/fsx"
)

// Survey returns what is known about a sandbox and whether that is complete. Damaged is set if a part of the record
// cannot be read, also if an earlier Read has set the record aside. Unlike Read, Survey leaves a damaged record in
// place, so that later calls see the damage, too. If nothing is known about a sandbox, its record has no attachments.
func (s *Store) Survey(containerID, ifName string) (*Record, error) {
	r, err := s.Peek(containerID, ifName)
	if err == nil {
		s.Complete(r)
	}
	return r, err
}

// Peek is Survey without what Complete adds. Apart from the attachments of a damaged record, the result is that of
// Read.
func (s *Store) Peek(containerID, ifName string) (*Record, error) {
	r := &Record{ContainerID: containerID}
	b, err := s.load(containerID)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case errors.Is(err, fsx.ErrNotRegular), errors.Is(err, fsx.ErrTooLarge):
		r.Damaged = true
		info, err := os.Lstat(filepath.Join(s.Dir, containerID))
		r.Foreign = err == nil && info.IsDir()
	case err != nil:
		return nil, fmt.Errorf("read record of container %s: %w", containerID, err)
	default:
		r.Damaged = s.decode(r, b, ifName) != nil
		r.Foreign = r.Damaged && !bytes.HasPrefix(bytes.TrimSpace(b), []byte("["))
	}
	r.Damaged = r.Damaged || s.isAside(containerID)
	if r.Damaged || err != nil {
		if err := s.addResults(r, ifName); err != nil {
			return nil, err
		}
	}
	r.Foreign = r.Foreign && len(r.Attachments) == 0
	return r, nil
}

// ChangedSince reports whether a sandbox was recorded, or a network attached to it, after start. A file time in the
// future is ignored: the clock was set back.
func (s *Store) ChangedSince(r *Record, start time.Time) bool {
	now := time.Now()
	changed := func(path string) bool {
		info, err := os.Lstat(path)
		return err == nil && info.ModTime().After(start) && !info.ModTime().After(now)
	}
	if changed(filepath.Join(s.Dir, r.ContainerID)) {
		return true
	}
	return slices.ContainsFunc(r.Attachments, func(a Attachment) bool {
		name, err := ResultName(a.Config.Name(), r.ContainerID, a.IfName)
		return err == nil && changed(filepath.Join(ResultsDir(s.Dir), name))
	})
}

// HasTrace reports whether anything is in the place of a sandbox's record or was set aside from there.
func (s *Store) HasTrace(containerID string) bool {
	if _, err := s.file(containerID); err != nil {
		return false
	}
	return s.Has(containerID) || s.isAside(containerID)
}

// SetAside keeps a damaged record in damagedDir, as Read does. A regular file is copied and stays in place until
// Remove.
func (s *Store) SetAside(containerID string) error {
	b, err := s.load(containerID)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case errors.Is(err, fsx.ErrNotRegular), errors.Is(err, fsx.ErrTooLarge):
		return s.setAsideFile(filepath.Join(s.Dir, containerID))
	case err != nil:
		return fmt.Errorf("set aside record of container %s: %w", containerID, err)
	default:
		s.setAside(containerID, b)
	}
	return nil
}

// aside returns the path to which setAsideFile moves what is in the place of a record.
func (s *Store) aside(containerID string) string {
	return filepath.Join(s.Dir, damagedDir, containerID)
}

func (s *Store) isAside(containerID string) bool {
	_, err := os.Lstat(s.aside(containerID))
	return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
}

// settle renames what was set aside for a sandbox that is now deleted. The file is kept, but it no longer marks the
// sandbox as damaged.
func (s *Store) settle(containerID string) {
	from := s.aside(containerID)
	to := from + "." + strconv.FormatInt(time.Now().UnixNano(), 16)
	if err := os.Rename(from, to); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.Log.Warn("cannot rename the damaged record of a deleted container", "file", from, "err", err)
	}
}
