package cniconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/fsx"
)

// ForcedDir is the directory, beside the cluster network's file, for a copy of the cluster network with the version
// that forceCNIVersion requires. The generated configuration names the directory, and the plugin and the daemon read
// the copy in place of the file. Auxiliary chains, which are located beside it, are found as before. Runtimes do not
// read subdirectories. The cluster network's own file belongs to its agent and is never changed.
const ForcedDir = "00-multus.forced"

// forced reports whether the cluster network is used with another version than its own.
func forced(d *config.Daemon, p *Primary) bool {
	return d.ForceCNIVersion && !d.AutoCNIVersion() && d.ClusterNetwork == "" && p.Config.Version() != d.CNIVersion
}

// clusterNetwork returns the clusterNetwork path of the generated configuration.
func clusterNetwork(d *config.Daemon, p *Primary) string {
	if forced(d, p) {
		return filepath.Join(filepath.Dir(p.File), ForcedDir)
	}
	return p.File
}

// writeForced writes the copy if it does not exist or has changed. The copy includes the plugins of the list's
// subdirectory.
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

// copyName returns the name of the copy of a file. A directory of networks is recognised by a file that ends in .conf
// or .conflist.
func copyName(file string) string {
	if filepath.Ext(file) == jsonExtension {
		return file + ".conf"
	}
	return file
}

// copyOf returns the name of the file of which a copy was made.
func copyOf(name string) string {
	if file, ok := strings.CutSuffix(name, ".conf"); ok && filepath.Ext(file) == jsonExtension {
		return file
	}
	return name
}

// removeUnusedForced removes copies that are not in use: those of other files than the chosen one, and those whose file
// is gone. Without its file the cluster network is gone, and no pod may be attached to a copy of it.
func (c *Controller) removeUnusedForced() error {
	if c.conf.MultusConfigFile != config.Auto {
		return nil
	}
	source := c.conf.MultusAutoconfigDir
	dir := filepath.Join(source, ForcedDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	inUse := c.InForce() != nil || bytes.Contains(c.good, []byte(`/`+ForcedDir+`"`))
	var errs []error
	for _, e := range entries {
		_, err := os.Stat(filepath.Join(source, copyOf(e.Name())))
		other := c.primary != "" && copyOf(e.Name()) != filepath.Base(c.primary)
		if !inUse || other || errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fsx.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, removeEmpty(dir))...)
}

// RemoveForced removes the copies of a cluster network if path, a value of clusterNetwork, is their directory.
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

// ClusterNetworkFiles resolves the clusterNetwork path of a configuration, which may be the directory of a copy with
// another version. read is the file from which the cluster network is read. agent is the file of the cluster network's
// own agent, which is the same file if there is no copy.
func ClusterNetworkFiles(path string) (read, agent string) {
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
