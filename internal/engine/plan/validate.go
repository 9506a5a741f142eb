package plan

import (
	"errors"
	"fmt"
	"path"

	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/cniconf"
	"multus/internal/engine/request"
)

// Validate returns an error if a plan cannot be executed for a request. A plan of the daemon is untrusted input, and
// the daemon may have another version. Names become parts of paths, and programs are searched in the directories.
func (p *Plan) Validate(req *request.Request) error {
	if len(p.Attachments) == 0 && req.Command != request.Del {
		return errors.New("it has no network")
	}
	if p.ContainerID != req.ContainerID {
		return fmt.Errorf("it is for container %.64q, not for %q", p.ContainerID, req.ContainerID)
	}
	if p.Netns != req.Netns {
		return fmt.Errorf("it is for network namespace %.253q, not for %q", p.Netns, req.Netns)
	}
	for _, dir := range []string{p.Dirs.State, p.Dirs.Binary} {
		if dir != "" && !path.IsAbs(dir) {
			return fmt.Errorf("directory %.253q is not an absolute path", dir)
		}
	}
	seen := map[string]bool{}
	for i := range p.Attachments {
		a := &p.Attachments[i]
		if err := a.validate(req.Command); err != nil {
			return fmt.Errorf("network %d (%.253q): %w", i, a.Name, err)
		}
		if a.IfName != "" && seen[a.IfName] {
			return fmt.Errorf("network %d (%.253q): another one has interface %s", i, a.Name, a.IfName)
		}
		if a.Stage < 0 || a.Stage > i {
			return fmt.Errorf("network %d (%.253q): stage %d", i, a.Name, a.Stage)
		}
		seen[a.IfName] = true
	}
	return nil
}

// Validate returns an error if changes cannot be made to a sandbox that has the attachments has. Changes of the daemon
// are untrusted input, as its plans are.
func (c *Changes) Validate(has []Attached) error {
	taken := map[string]bool{}
	for i := range has {
		taken[has[i].IfName] = true
	}
	removed := map[int]bool{}
	for _, i := range c.Remove {
		if i < 0 || i >= len(has) || removed[i] || has[i].Primary || has[i].Owner == OwnedByNode {
			return fmt.Errorf("it removes attachment %d of %d", i, len(has))
		}
		removed[i] = true
		delete(taken, has[i].IfName)
	}
	for i := range c.Add {
		a := &c.Add[i]
		err := a.validate(request.Add)
		switch {
		case err != nil:
		case a.Primary:
			err = errors.New("it is another cluster network")
		case taken[a.IfName]:
			err = fmt.Errorf("another one has interface %s", a.IfName)
		case a.Stage != 0 || !a.Routes.None():
			err = errors.New("it has a stage or routes, which a running sandbox has not")
		}
		if err != nil {
			return fmt.Errorf("network %d (%.253q): %w", i, a.Name, err)
		}
		taken[a.IfName] = true
	}
	return nil
}

func (a *Attachment) validate(command string) error {
	if a.Config == nil {
		return errors.New("it has no configuration")
	}
	if err := utils.ValidateNetworkName(a.Config.Name()); err != nil {
		return fmt.Errorf("its configuration has the name %.253q, which CNI does not allow", a.Config.Name())
	}
	if err := cniconf.CheckTypes(a.Config.AllTypes()); err != nil {
		return err
	}
	if command == request.Add || command == request.Del {
		if err := checkInterfaceName(a.IfName); err != nil {
			return err
		}
	}
	if a.DeviceInfo != "" && !IsDeviceInfo(a.DeviceInfo) {
		return fmt.Errorf("its device-info file %.253q is not in %s", a.DeviceInfo, DeviceInfoDir)
	}
	return nil
}

// IsDeviceInfo reports whether a path is that of a device-info file of an attachment, which may be written and removed
// with the attachment.
func IsDeviceInfo(file string) bool {
	return path.Clean(file) == file && path.Dir(file) == DeviceInfoDir
}
