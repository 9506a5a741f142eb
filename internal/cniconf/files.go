package cniconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"multus/internal/fsx"
)

// MaxPlugins is the maximum number of plugins in the list of one network. Each plugin is a process at every verb, and
// a DEL of thousands does not end in the time that a runtime waits. Real lists have fewer than ten plugins.
const MaxPlugins = 32

// LoadByName finds the file in dir whose network has the given name. An empty name stands for the first usable file
// (behaviour B20-B24). Files that cannot be parsed are skipped, and listed in the error if no file is found (B23: in
// today's Multus one broken file breaks all networks).
func LoadByName(dir, name string) (l *List, file string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, "", fmt.Errorf("no networks found in %s: %w", dir, err)
	}
	var broken []error
	seen := 0
	for _, e := range entries { // sorted by name
		if e.IsDir() || !IsFileName(e.Name()) {
			continue
		}
		seen++
		file := filepath.Join(dir, e.Name())
		l, err := loadFile(file, false)
		switch {
		case err != nil:
			broken = append(broken, fmt.Errorf("skipped: %w", err))
		case name == "" && slices.ContainsFunc(l.Types(), IsMultus): // the file of Multus itself
		case name == "" || l.Name() == name:
			return l, file, nil
		}
	}
	if seen == 0 {
		return nil, "", fmt.Errorf("no networks found in %s", dir)
	}
	err = fmt.Errorf("no network available in the name %s in cni dir %s", name, dir)
	return nil, "", errors.Join(append([]error{err}, broken...)...)
}

// LoadPath reads the network at a path: the first usable file of a directory, a .conflist with the plugins of its
// subdirectory, or a plugin configuration (behaviour B32-B35).
func LoadPath(path string) (l *List, file string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, "", fmt.Errorf("cannot find network: %w", err)
	}
	if !info.IsDir() {
		l, err := loadFile(path, true)
		return l, path, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, "", fmt.Errorf("cannot find network: %w", err)
	}
	for _, e := range entries {
		if hasExtension(e.Name(), []string{".conf", ".conflist"}) {
			return LoadByName(path, "")
		}
	}
	return nil, "", fmt.Errorf("cannot find network: %s has no .conf or .conflist file", path)
}

// LoadFile reads the network in a file as ADD does, with the plugins of its subdirectory (behaviour B34, B35).
func LoadFile(file string) (*List, error) { return loadFile(file, true) }

// loadFile reads one file. chained adds the plugins of the subdirectory with the name of the list (behaviour B35). It
// is false when a list is found by its name (behaviour B25).
func loadFile(file string, chained bool) (*List, error) {
	b, err := fsx.ReadFile(file, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	isList := strings.HasSuffix(file, ".conflist")
	var more [][]byte
	if isList && chained {
		if more, err = subdirectory(filepath.Dir(file), b); err != nil {
			return nil, fmt.Errorf("error loading CNI conflist file %s: %w", file, err)
		}
	}
	l, err := ParseWith(b, more)
	if err == nil {
		err = CheckPlugins(l)
	}
	if err == nil && !l.HasValidVersion() {
		err = fmt.Errorf("cniVersion %.64q is not a version", l.Version())
	}
	switch {
	case err != nil && isList:
		return nil, fmt.Errorf("error loading CNI conflist file %s: %w", file, err)
	case err != nil:
		return nil, fmt.Errorf("error loading CNI config file %s: %w", file, err)
	case isList && l.Single():
		return nil, fmt.Errorf("error loading CNI conflist file %s: no plugins; perhaps this is supposed to be a .conf?",
			file)
	case !isList && !l.Single():
		return nil, fmt.Errorf("error loading CNI config file %s: no 'type'; perhaps this is supposed to be a .conflist?",
			file)
	}
	return l, nil
}

// subdirectory returns the plugins in dir/<name of the list>, unless the list sets loadOnlyInlinedPlugins (CNI SPEC 1.1
// §1; boolean or string, behaviour K9).
func subdirectory(dir string, list []byte) ([][]byte, error) {
	var head struct {
		Name   string `json:"name"`
		Inline any    `json:"loadOnlyInlinedPlugins"`
	}
	if err := json.Unmarshal(list, &head); err != nil {
		return nil, err
	}
	if head.Inline == true || head.Inline == "true" {
		return nil, nil
	}
	if err := utils.ValidateNetworkName(head.Name); err != nil {
		return nil, fmt.Errorf("invalid network config name: %q", head.Name)
	}
	return PluginFiles(filepath.Join(dir, head.Name))
}

// TooManyPluginsError is returned for a list, or a directory with plugins of a list, with more than MaxPlugins plugins.
type TooManyPluginsError int

func (e TooManyPluginsError) Error() string {
	return fmt.Sprintf("it has %d plugins, at most %d are accepted", int(e), MaxPlugins)
}

// CheckPlugins returns an error if a list has more plugins than an ADD accepts.
func CheckPlugins(l *List) error {
	if n := l.Len(); n > MaxPlugins {
		return TooManyPluginsError(n)
	}
	return nil
}

// PluginFiles returns the contents of the .conf files of a directory in name order. A directory that does not exist is
// empty. If there are too many files, none is read.
func PluginFiles(dir string) ([][]byte, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read plugins of the chain: %w", err)
	}
	entries = slices.DeleteFunc(entries,
		func(e os.DirEntry) bool { return e.IsDir() || !strings.HasSuffix(e.Name(), ".conf") })
	if n := len(entries); n > MaxPlugins {
		return nil, fmt.Errorf("%s: %w", dir, TooManyPluginsError(n))
	}
	var out [][]byte
	for _, e := range entries {
		b, err := fsx.ReadFile(filepath.Join(dir, e.Name()), MaxFile)
		if err != nil {
			return nil, fmt.Errorf("read plugin of the chain: %w", err)
		}
		l, err := Parse(b)
		if err == nil && !l.Single() {
			err = ErrNoType
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, e.Name()), err)
		}
		out = append(out, b)
	}
	return out, nil
}

func hasExtension(name string, exts []string) bool {
	for _, ext := range exts {
		if strings.HasSuffix(name, ext) {
			return true
		}
	}
	return false
}

// HasValidVersion reports whether libcni can parse the cniVersion of a network, or whether the network has none.
func (l *List) HasValidVersion() bool {
	_, _, _, err := version.ParseVersion(l.Version())
	return err == nil
}
