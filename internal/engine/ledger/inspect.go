package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Inspect reads a record for people and changes nothing: unlike Read it leaves a damaged file where it is, and does not
// take libcni's results for it. The error says what could not be read; the record is what could. Both are nil when
// there is no such file.
func (s *Store) Inspect(containerID, ifName string) (*Record, error) {
	b, err := s.load(containerID)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // no record is an answer, not an error
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

// Damaged lists the files that Read has put aside.
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
