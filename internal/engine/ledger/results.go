package ledger

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

// libcni caches the result of each attachment below the state directory. The files decide what DEL, CHECK and GC do, so
// they are untrusted input: names are validated before they become a path, and only regular files are read. libcni and
// package execute write them.

// maxEntry is the maximum size of an entry that is read: a configuration, a plugin's result, and what libcni adds.
const maxEntry = 64 << 20

// ResultsDir returns the directory of the entries below a state directory (behaviour D84).
func ResultsDir(stateDir string) string { return filepath.Join(stateDir, "results") }

// ResultName returns the file name of an attachment's entry in ResultsDir. It returns an error if libcni refuses one of
// the three names at ADD (CNI SPEC 1.1, network name, CNI_CONTAINERID, CNI_IFNAME): such an entry cannot exist, and the
// path could lead to any directory.
func ResultName(network, containerID, ifName string) (string, error) {
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

// ReadResult returns the content of an entry. name is a ResultName.
func ReadResult(stateDir, name string) ([]byte, error) {
	return fsx.ReadRegular(ResultsDir(stateDir), name, maxEntry)
}

// HasResult reports whether an entry of that name exists.
func HasResult(stateDir, name string) bool {
	info, err := os.Lstat(filepath.Join(ResultsDir(stateDir), name))
	return err == nil && info.Mode().IsRegular()
}

// ClearResult removes what is in the place of an entry and is not a regular file: libcni would follow a link and block
// on a pipe.
func ClearResult(stateDir, name string) error {
	path := filepath.Join(ResultsDir(stateDir), name)
	info, err := os.Lstat(path)
	if err != nil || info.Mode().IsRegular() {
		return nil //nolint:nilerr // libcni reports what it cannot read
	}
	return fsx.Remove(path)
}

// listResults returns the attachments of a container, or of all containers if containerID is "". A file that is no
// entry, such as a link or an oversized file, is not read; it is passed to aside, which must remove it from the
// directory. An entry with names that libcni cannot have written is logged and omitted.
func listResults(stateDir, containerID string, log *slog.Logger,
	aside func(path string) error,
) ([]*libcni.NetworkAttachment, error) {
	entries, err := os.ReadDir(ResultsDir(stateDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() || e.Type().IsRegular() && !oversize(e) {
			continue
		}
		if err := aside(filepath.Join(ResultsDir(stateDir), e.Name())); err != nil {
			return nil, err
		}
	}
	all, err := libcni.NewCNIConfigWithCacheDir(nil, stateDir, nil).GetCachedAttachments(containerID)
	return slices.DeleteFunc(all, func(a *libcni.NetworkAttachment) bool {
		_, err := ResultName(a.Network, a.ContainerID, a.IfName)
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
