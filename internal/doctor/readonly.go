package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

var readonlyCheck = Check{
	Name:  "writable",
	About: "the directories that Multus writes to can be written, and plugins can be started from theirs",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		var out []Finding
		table, err := n.mountTable()
		for _, dir := range []directory{
			{"CNI configuration directory", n.confDir(), "cniConfigDir", false},
			{"plugin directory", n.binDir(), "binDir", true},
			{"state directory", n.stateDir(), "cniDir", true},
			{"socket directory", n.setup().socketDir(), "socketDir", false},
		} {
			if n.InPod && mountOf(table, n.real(dir.path)).point == "/" {
				err = errors.Join(err, fmt.Errorf("the %s %s is not mounted here", dir.what, dir.path))
				continue
			}
			if f := writable(n, table, dir); f != nil {
				out = append(out, *f)
			}
		}
		if m := mountOf(table, n.real(n.binDir())); m.has("noexec") {
			out = append(out, Finding{
				Severity: Error, Message: "plugins cannot be started from " + n.binDir(),
				Evidence: fmt.Sprintf("mount %s (%s) has the option noexec", m.point, m.fstype),
				Fix:      "mount -o remount,exec " + m.point + ", or set binDir to a directory elsewhere",
			})
		}
		return out, err
	},
}

func (s *setup) socketDir() string {
	if s.conf.DaemonSocketDir != "" {
		return s.conf.DaemonSocketDir
	}
	return "/run/multus"
}

// directory is a directory to which Multus writes. key is its key in the daemon's configuration. podReads is set if the
// daemon itself only reads it, and its pod has it read-only.
type directory struct {
	what, path, key string
	podReads        bool
}

// writable checks one directory. A directory that does not exist would be created on the mount of its parents.
func writable(n *Node, table []mount, d directory) *Finding {
	what, path := d.what, d.path
	if info, err := os.Lstat(n.path(path)); err == nil && info.Mode().Type() != fs.ModeDir {
		return &Finding{
			Severity: Error, Message: fmt.Sprintf("the %s is not a directory", what),
			Evidence: fmt.Sprintf("%s has mode %s", path, info.Mode()),
			Fix:      fmt.Sprintf("mv %s %s.old && mkdir -m 0700 %s", path, path, path),
		}
	}
	m := mountOf(table, n.real(path))
	readOnly := m.has("ro")
	if n.InPod && d.podReads {
		readOnly = slices.Contains(m.super, "ro")
	}
	if !readOnly {
		return nil
	}
	return &Finding{
		Severity: Error, Message: fmt.Sprintf("the %s %s cannot be written", what, path),
		Evidence: fmt.Sprintf("mount %s (%s) is read-only", m.point, m.fstype),
		Fix: fmt.Sprintf("set %s to a directory that can be written (deploy/overlays/readonly-fs), or mount -o remount,rw %s",
			d.key, m.point),
	}
}
