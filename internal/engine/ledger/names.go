package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/fsx"
)

// maxRecord is the maximum size of a record that is read. It is far above the limit of a plan (plan.MaxBytes), so that
// records of older versions, which had no limit, can be deleted.
const maxRecord = 256 << 20

// errNeverAttached is returned for an element that no version of libcni can have attached, whatever its record says.
var errNeverAttached = errors.New("libcni accepts no such network name, so nothing was attached")

// asError converts a nil *types.Error to a nil error.
func asError(err *types.Error) error {
	if err == nil {
		return nil
	}
	return err
}

// file returns the path of a record. It returns an error for an invalid container ID (CNI SPEC 1.1, CNI_CONTAINERID),
// which could lead out of the state directory.
func (s *Store) file(containerID string) (string, error) {
	if err := utils.ValidateContainerID(containerID); err != nil {
		return "", fmt.Errorf("container ID %.253q: %w", containerID, err)
	}
	return filepath.Join(s.Dir, containerID), nil
}

// load returns the content of a record.
func (s *Store) load(containerID string) ([]byte, error) {
	if _, err := s.file(containerID); err != nil {
		return nil, err
	}
	return fsx.ReadRegular(s.Dir, containerID, maxRecord)
}

// checkNames returns an error if a name in a record cannot have been written by an ADD. Records are untrusted input,
// and these names become parts of paths.
func checkNames(a *Attachment) error {
	if err := utils.ValidateNetworkName(a.Config.Name()); err != nil {
		return fmt.Errorf("%w: %.253q", errNeverAttached, a.Config.Name())
	}
	if err := errors.Join(asError(utils.ValidateInterfaceName(a.IfName)), fsx.PlainName(a.IfName)); err != nil {
		return fmt.Errorf("interface name %.253q: %w", a.IfName, err)
	}
	return nil
}

// cached returns libcni's results of a sandbox, or of all sandboxes if containerID is "".
func (s *Store) cached(containerID string) ([]*libcni.NetworkAttachment, error) {
	if err := s.dropLinks(); err != nil {
		return nil, err
	}
	return listResults(s.Dir, containerID, s.Log, s.setAsideFile)
}

// setAsideFile moves a file of unknown origin to damagedDir. It moves a link itself, not the link's target.
func (s *Store) setAsideFile(path string) error {
	dir := filepath.Join(s.Dir, damagedDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("set aside %q: %w", path, err)
	}
	to := filepath.Join(dir, filepath.Base(path))
	if err := os.Rename(path, to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set aside %q: %w", path, err)
	}
	s.Log.Error("unknown file in the state directory: moved aside", "file", path, "to", to)
	return nil
}

// dropLinks removes symbolic links in the place of the store's directories, so that nothing is read or written at their
// targets. The store creates no such links: an administrator who needs the directories on another file system mounts it
// there. dropLinks is called before the directories are used, and checks them once.
func (s *Store) dropLinks() error {
	if s.linkless == s.Dir {
		return nil
	}
	for _, dir := range [...]string{
		ResultsDir(s.Dir), filepath.Join(s.Dir, damagedDir), s.networksDir(), s.abandonedDir(),
	} {
		target, err := fsx.RemoveLink(dir)
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		if target != "" {
			s.Log.Error("removed a link in the place of a state directory: links are not followed there; "+
				"mount another file system instead", "link", dir, "target", target)
		}
	}
	s.linkless = s.Dir
	return nil
}
