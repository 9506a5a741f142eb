// Package resultcache reads libcni's cache of results below a state directory. The files there decide what DEL, CHECK
// and GC do, so they are input: names are checked before they become a path, and nothing but a regular file is read. It
// writes no results; libcni and package execute do. The ledger and package execute import it.
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

// maxEntry is the size of an entry that is still read: a configuration, a plugin's answer, and what libcni adds.
const maxEntry = 64 << 20

// Dir returns the directory of the entries below a state directory (behaviour D84).
func Dir(stateDir string) string { return filepath.Join(stateDir, "results") }

// Name returns the file name of an attachment's entry in Dir. It returns an error if libcni refuses one of the three
// names at ADD (CNI SPEC 1.1, network name, CNI_CONTAINERID, CNI_IFNAME): there is no such entry, and the name may lead
// anywhere.
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

// Read returns the entry of an attachment, by its Name.
func Read(stateDir, name string) ([]byte, error) {
	return fsx.ReadRegular(Dir(stateDir), name, maxEntry)
}

// Has reports whether there is an entry of that name.
func Has(stateDir, name string) bool {
	info, err := os.Lstat(filepath.Join(Dir(stateDir), name))
	return err == nil && info.Mode().IsRegular()
}

// Clear removes what stands in the place of an entry and is not a regular file: libcni would follow a link, and wait
// for a pipe.
func Clear(stateDir, name string) error {
	path := filepath.Join(Dir(stateDir), name)
	info, err := os.Lstat(path)
	if err != nil || info.Mode().IsRegular() {
		return nil //nolint:nilerr // libcni reports what it cannot read
	}
	return fsx.Remove(path)
}

// List returns the attachments of a container, or of all containers for "". A file that libcni cannot have written is
// passed to aside, which must remove it from the directory, and is not read.
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
