package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Inspect reads a record for display and changes nothing. Unlike Read, it leaves a damaged file in place and does not
// fall back to libcni's results. The record holds what could be read, and the error says what could not. Both are nil
// if there is no file.
func (s *Store) Inspect(containerID, ifName string) (*Record, error) {
	b, err := s.load(containerID)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // no record is a result, not an error
	}
	if err != nil {
		return nil, fmt.Errorf("read record of container %s: %w", containerID, err)
	}
	r := &Record{ContainerID: containerID}
	if err := s.decode(r, b, ifName); err != nil {
		return r, fmt.Errorf("decode record of container %s: %w", containerID, err)
	}
	s.Complete(r)
	return r, nil
}

// Damaged lists the files that were set aside.
func (s *Store) Damaged() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, damagedDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list damaged records: %w", err)
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name()
	}
	return out, nil
}
