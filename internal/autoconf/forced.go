package autoconf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/fsx"
)

// ForcedDir is the directory, beside the cluster network's file, of the copy of the cluster network that has the
// version that forceCNIVersion asks for. The generated configuration names the directory, so that plugin and daemon
// read the copy as they would read the file: auxiliary chains, which are looked for beside it, are found as before. The
// runtime reads no sub-directories. The cluster network's own file is never changed: it is not ours.
const ForcedDir = "00-multus.forced"

// forced reports whether the cluster network is used with another version than its own.
func forced(d *config.Daemon, p *Primary) bool {
	return d.ForceCNIVersion && !d.AutoCNIVersion() && d.ClusterNetwork == "" && p.Config.Version() != d.CNIVersion
}

// clusterNetwork returns the path that the generated configuration names.
func clusterNetwork(d *config.Daemon, p *Primary) string {
	if forced(d, p) {
		return filepath.Join(filepath.Dir(p.File), ForcedDir)
	}
	return p.File
}

// writeForced writes the copy, unless it is there already. It holds the plugins of the list's sub-directory, too.
func writeForced(d *config.Daemon, p *Primary) error {
	forced, err := p.Config.WithVersion(d.CNIVersion)
	if err != nil {
		return fmt.Errorf("force cniVersion %s of %s: %w", d.CNIVersion, p.File, err)
	}
	path := filepath.Join(clusterNetwork(d, p), copyName(filepath.Base(p.File)))
	if there, err := fsx.ReadFile(path, cniconf.MaxFile); err == nil && bytes.Equal(there, forced.Bytes()) {
		return nil
	}
	err = os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = fsx.WriteAtomic(path, forced.Bytes(), 0o600)
	}
	if err != nil {
		return fmt.Errorf("force cniVersion %s of %s: %w", d.CNIVersion, p.File, err)
	}
	return nil
}

const jsonExtension = ".json"

// copyName is the name of the copy of a file: a directory of networks is known by a file that ends in .conf or
// .conflist.
func copyName(file string) string {
	if filepath.Ext(file) == jsonExtension {
		return file + ".conf"
	}
	return file
}

// copyOf is the name of the file that a copy was made of.
func copyOf(name string) string {
	if file, ok := strings.CutSuffix(name, ".conf"); ok && filepath.Ext(file) == jsonExtension {
		return file
	}
	return name
}

// forgetForced removes copies that are not in use: those of other files than the chosen one, and those of a file that
// is gone. Without its file the cluster network is gone, and a pod must not be attached to what is left of it.
func (s *Slot) forgetForced() error {
	if s.conf.MultusConfigFile != config.Auto {
		return nil
	}
	source := s.conf.MultusAutoconfigDir
	dir := filepath.Join(source, ForcedDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	inUse := s.Owned() != nil || bytes.Contains(s.good, []byte(`/`+ForcedDir+`"`))
	var errs []error
	for _, e := range entries {
		_, err := os.Stat(filepath.Join(source, copyOf(e.Name())))
		other := s.primary != "" && copyOf(e.Name()) != filepath.Base(s.primary)
		if !inUse || other || errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fsx.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, removeEmpty(dir))...)
}

// RemoveForced removes the copy of a cluster network if the path, which is that of clusterNetwork, is one.
func RemoveForced(path string) error {
	if filepath.Base(path) != ForcedDir {
		return nil
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, fsx.Remove(filepath.Join(path, e.Name())))
	}
	return errors.Join(append(errs, removeEmpty(path))...)
}

// File returns the file that the cluster network is read from, by the path that a configuration has as clusterNetwork,
// which may be the directory of a copy with another version; and the file of the cluster network's own agent, which is
// the same if there is no copy.
func File(path string) (read, agent string) {
	if filepath.Base(path) != ForcedDir {
		return path, path
	}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) == 0 {
		return path, path
	}
	name := entries[0].Name()
	return filepath.Join(path, name), filepath.Join(filepath.Dir(path), copyOf(name))
}

func removeEmpty(dir string) error {
	switch err := unix.Rmdir(dir); err {
	case nil, unix.ENOTEMPTY, unix.EEXIST, unix.ENOENT:
		return nil
	default:
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
}
