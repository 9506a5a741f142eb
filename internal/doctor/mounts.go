package doctor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// mount is one line of mountinfo (proc(5)).
type mount struct {
	point   string
	options []string
	// super has the options of the file system, which all its mounts share.
	super  []string
	shared bool
	slave  bool
	fstype string
}

// mountTable returns the mounts of the node's first process.
func (n *Node) mountTable() ([]mount, error) {
	b, err := n.read("/proc/1/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot read the mounts: %w", err)
	}
	var out []mount
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		dash := slices.Index(fields, "-")
		if dash < 6 || len(fields) < dash+4 {
			continue
		}
		m := mount{point: unescape(fields[4]), fstype: fields[dash+1], super: strings.Split(fields[dash+3], ",")}
		m.options = append(strings.Split(fields[5], ","), m.super...)
		for _, tag := range fields[6:dash] {
			m.shared = m.shared || strings.HasPrefix(tag, "shared:")
			m.slave = m.slave || strings.HasPrefix(tag, "master:")
		}
		out = append(out, m)
	}
	if len(out) == 0 {
		return nil, errors.New("cannot read the mounts: /proc/1/mountinfo is empty")
	}
	return out, nil
}

// unescape decodes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// mountOf returns the mount of a path of the node. Of several mounts on one point, it is the last.
func mountOf(table []mount, path string) mount {
	var best mount
	for _, m := range table {
		inside := m.point == "/" || path == m.point || strings.HasPrefix(path, m.point+"/")
		if inside && len(m.point) >= len(best.point) {
			best = m
		}
	}
	return best
}

func (m mount) has(option string) bool { return slices.Contains(m.options, option) }

var mountsCheck = Check{
	Name: "mounts", About: "nothing needs mount propagation that the node does not have",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		table, err := n.mountTable()
		if err != nil {
			return nil, err
		}
		s := n.setup()
		if s.daemon == nil || s.daemon.ChrootDir == "" {
			return nil, nil // this Multus needs none: plugins run where the runtime runs them
		}
		if n.InPod {
			return nil, errors.New("a container has mounts of its own: run it on the node, or give --root")
		}
		// The file is one of today's thick Multus, whose daemon enters the node's root through a mount (multus-cni#1260,
		// multus-cni#1248).
		var out []Finding
		for _, path := range []string{"/", n.confDir(), n.binDir(), "/run/netns"} {
			m := mountOf(table, n.real(path))
			if !m.shared {
				out = append(out, Finding{
					Severity: Warning, Message: fmt.Sprintf("a daemon with chrootDir needs %s to be a shared mount, and it is private",
						path),
					Evidence: fmt.Sprintf("chrootDir is %q in %s; mount %s (%s) is not shared in /proc/1/mountinfo",
						s.daemon.ChrootDir, n.daemonFile(), m.point, m.fstype),
					Fix: "remove chrootDir: this daemon needs no propagation. For today's Multus: mount --make-rshared " +
						filepath.Clean(m.point),
				})
				break
			}
		}
		return out, nil
	},
}
