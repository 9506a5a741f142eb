// Package resultcache reads libcni's cache of results below a state directory. The files there decide what DEL, CHECK
// and GC do, so they are untrusted input: names are validated before they become a path, and only regular files are
// read. The package writes no results; libcni and package execute do. It is imported by the ledger and package execute.
package resultcache

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/fsx"
)

// maxEntry is the maximum size of an entry that is read: a configuration, a plugin's result, and what libcni adds.
const maxEntry = 64 << 20

// Dir returns the directory of the entries below a state directory (behaviour D84).
func Dir(stateDir string) string { return filepath.Join(stateDir, "results") }

// Name returns the file name of an attachment's entry in Dir. It returns an error if libcni refuses one of the three
// names at ADD (CNI SPEC 1.1, network name, CNI_CONTAINERID, CNI_IFNAME): such an entry cannot exist, and the path
// could lead to any directory.
func Name(network, containerID, ifName string) (string, error) {
	for _, err := range []*types.Error{
		utils.ValidateNetworkName(network), utils.ValidateContainerID(containerID), utils.ValidateInterfaceName(ifName),
	} {
		if err != nil {
			return "", fmt.Errorf("name the cached result of network %.253q, container %.253q, interface %.253q: %w",
				network, containerID, ifName, err)
		}
	}
	name := network + "-" + containerID + "-" + ifName
	return name, fsx.PlainName(name)
}

// Read returns the content of an entry. name is the attachment's Name.
func Read(stateDir, name string) ([]byte, error) {
	return fsx.ReadRegular(Dir(stateDir), name, maxEntry)
}

// Has reports whether an entry of that name exists.
func Has(stateDir, name string) bool {
	info, err := os.Lstat(filepath.Join(Dir(stateDir), name))
	return err == nil && info.Mode().IsRegular()
}

// Clear removes what is in the place of an entry and is not a regular file: libcni would follow a link and block on a
// pipe.
func Clear(stateDir, name string) error {
	path := filepath.Join(Dir(stateDir), name)
	info, err := os.Lstat(path)
	if err != nil || info.Mode().IsRegular() {
		return nil //nolint:nilerr // libcni reports what it cannot read
	}
	return fsx.Remove(path)
}

// List returns the attachments of a container, or of all containers if containerID is "". A file that is no entry, such
// as a link or an oversized file, is not read; it is passed to aside, which must remove it from the directory. An entry
// with names that libcni cannot have written is logged and omitted.
func List(stateDir, containerID string, log *slog.Logger,
	aside func(path string) error,
) ([]*libcni.NetworkAttachment, error) {
	entries, err := os.ReadDir(Dir(stateDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() || e.Type().IsRegular() && !oversize(e) {
			continue
		}
		if err := aside(filepath.Join(Dir(stateDir), e.Name())); err != nil {
			return nil, err
		}
	}
	all, err := libcni.NewCNIConfigWithCacheDir(nil, stateDir, nil).GetCachedAttachments(containerID)
	return slices.DeleteFunc(all, func(a *libcni.NetworkAttachment) bool {
		_, err := Name(a.Network, a.ContainerID, a.IfName)
		if err != nil {
			log.Error("cached result ignored: libcni did not write it", "err", err)
		}
		return err != nil
	}), err
}

func oversize(e fs.DirEntry) bool {
	info, err := e.Info()
	return err == nil && info.Size() > maxEntry
}
