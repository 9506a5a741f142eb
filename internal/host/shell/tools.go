package shell

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"multus/internal/agent/cniconfig"
	"multus/internal/cniconf"
	"multus/internal/fsx"
	"multus/internal/host/install"
)

// binDir is the directory of the binaries in the image. It is the same one as in today's image.
const binDir = "/usr/src/multus-cni/bin"

// confDir is the end of the path at which manifests mount the node's configuration directory.
const confDir = "/etc/cni/net.d"

// plugins are the files of binDir that manifests copy to the node.
var plugins = []string{"multus", "multus-shim", "passthru"}

// configurations are the possible names of the CNI configuration file.
var configurations = []string{cniconfig.FileName, cniconfig.FileName + "list"}

// copy implements these command lines:
//
//	cp [-f] /usr/src/multus-cni/bin/PLUGIN …/PLUGIN
//	cp [-p] …/00-multus.conf …/00-multus.hold.conf
//	cp …/etc/cni/net.d/*.conf* …/etc/cni/multus/net.d/
func (s *Shell) copy(flags, paths []string) func(context.Context) error {
	if len(paths) != 2 || len(flags) > 1 || strings.Contains(paths[1], "*") {
		return nil
	}
	flag, from, to := strings.Join(flags, ""), paths[0], paths[1]
	switch name := filepath.Base(from); {
	case flag == "" && isAllConfigurations(from, to):
		return func(context.Context) error { return s.copyConfigurations(filepath.Dir(from), to) }
	case (flag == "" || flag == "-f") && filepath.Dir(from) == binDir && slices.Contains(plugins, name) &&
		filepath.Base(to) == name:
		return func(ctx context.Context) error {
			// Install replaces the file by a rename, because the existing plugin may be running.
			return install.Install(ctx, install.Options{
				Source: s.at(binDir), Dest: s.at(filepath.Dir(to)),
				Names: []string{name},
			})
		}
	case (flag == "" || flag == "-p") && slices.Contains(configurations, name) &&
		to == filepath.Join(filepath.Dir(from), cniconfig.HoldName):
		return func(context.Context) error { return s.copyFile(from, to) }
	}
	return nil
}

// isAllConfigurations reports whether a cp copies the node's CNI configurations to the directory of networks.
func isAllConfigurations(from, to string) bool {
	return filepath.Base(from) == "*.conf*" && isConfDir(filepath.Dir(from)) &&
		strings.HasSuffix(filepath.Clean(to), "/etc/cni/multus/net.d")
}

// isConfDir reports whether path is the node's configuration directory, as manifests mount it.
func isConfDir(path string) bool {
	return strings.HasSuffix(filepath.Clean(path), confDir) && !strings.Contains(path, "*")
}

func (s *Shell) copyFile(from, to string) error {
	b, err := s.readConf(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if err := fsx.WriteAtomic(s.at(to), b, 0o600); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}

// copyConfigurations copies the node's CNI configurations, so that definitions can name a network by the name of its
// file. Configurations that call Multus are left out, because they are no such networks.
func (s *Shell) copyConfigurations(from, to string) error {
	files, err := filepath.Glob(filepath.Join(s.at(from), "*.conf*"))
	if err != nil {
		return fmt.Errorf("copy configurations of %s: %w", from, err)
	}
	copied := 0
	for _, file := range files {
		path := filepath.Join(from, filepath.Base(file))
		b, err := s.readConf(path)
		if err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		if cniconf.CallsMultus(b) {
			continue
		}
		if err := s.copyFile(path, filepath.Join(to, filepath.Base(file))); err != nil {
			return err
		}
		copied++
	}
	if copied == 0 {
		return fmt.Errorf("copy configurations of %s: no file matches", from)
	}
	return nil
}

// readConf reads a CNI configuration.
func (s *Shell) readConf(path string) ([]byte, error) {
	return fsx.ReadFile(s.at(path), cniconf.MaxFile)
}

// remove implements the command lines that manifests run when the container stops:
//
//	rm -f …/etc/cni/net.d/00-multus.conf
//	rm -f …/PLUGIN
//	rm -rf …/etc/cni/net.d/multus.d
//	rm -rf …/etc/cni/net.d/00-multus.conf …/var/lib/cni/*
//
// It removes nothing, because the container also stops at every update of the image. Without the configuration, pods
// would start without the networks that they request. With the configuration but without the plugin, no pod would
// start. Without the records and reservations in /var/lib/cni, two pods could get the same address. To remove Multus,
// use multus-daemon uninstall. The hook succeeds, because a failing hook would only add an event to the pod.
func (s *Shell) remove(flags, paths []string) func(context.Context) error {
	if len(flags) != 1 || !isRemoval(flags[0], paths) {
		return nil
	}
	return func(context.Context) error {
		for _, path := range paths {
			line := fmt.Sprintf("%s is kept: without it, pods would start without their networks, or not at all, until Multus "+
				"runs again; "+
				"to remove Multus from a node, use multus-daemon uninstall (docs/uninstall.md)", path)
			fmt.Fprintln(s.Stderr, line)
			if s.Container != nil {
				s.Container(line)
			}
		}
		return nil
	}
}

// isRemoval reports whether an rm has the arguments of one of the command lines of remove.
func isRemoval(flag string, paths []string) bool {
	switch {
	case len(paths) == 2:
		return flag == "-rf" && isConfiguration(paths[0]) && strings.HasSuffix(paths[1], "/var/lib/cni/*")
	case len(paths) != 1 || strings.Contains(paths[0], "*"):
		return false
	case flag == "-rf":
		return filepath.Base(paths[0]) == "multus.d" && isConfDir(filepath.Dir(paths[0]))
	}
	return flag == "-f" && (isConfiguration(paths[0]) || slices.Contains(plugins, filepath.Base(paths[0])))
}

// isConfiguration reports whether path is that of the CNI configuration file.
func isConfiguration(path string) bool {
	return slices.Contains(configurations, filepath.Base(path)) && isConfDir(filepath.Dir(path))
}

// show implements this command line:
//
//	cat …/etc/cni/net.d/00-multus.conf
func (s *Shell) show(flags, paths []string) func(context.Context) error {
	if len(flags) != 0 || len(paths) != 1 || !isConfiguration(paths[0]) {
		return nil
	}
	return func(context.Context) error {
		b, err := s.readConf(paths[0])
		if err != nil {
			return fmt.Errorf("show %s: %w", paths[0], err)
		}
		_, err = s.Stdout.Write(b)
		return err
	}
}
