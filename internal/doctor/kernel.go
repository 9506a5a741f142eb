package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// modules are the kernel modules that plugins need.
var modules = map[string]string{
	"macvlan": "macvlan", "ipvlan": "ipvlan", "vlan": "8021q", "bridge": "bridge", "dummy": "dummy", "tap": "tun",
	"vrf": "vrf", "ptp": "veth",
}

var kernelCheck = Check{
	Name: "kernel", About: "the kernel has what the plugins of all networks need",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		b, err := n.read("/proc/sys/kernel/osrelease")
		if err != nil {
			return nil, fmt.Errorf("cannot read the kernel's version: %w", err)
		}
		release := strings.TrimSpace(string(b))
		needed := map[string]string{}
		networks, netErr := n.networks(ctx)
		for _, w := range networks {
			for _, p := range w.plugins() {
				if module := modules[p.Type]; module != "" && needed[module] == "" {
					needed[module] = fmt.Sprintf("plugin %s, which %s uses", p.Type, w.owner)
				}
			}
		}
		available, err := n.modules(release)
		var out []Finding
		for _, module := range slices.Sorted(maps.Keys(needed)) {
			if n.exists("/sys/module/"+module) || available[module] || err != nil {
				continue
			}
			out = append(out, Finding{
				Severity: Error, Message: fmt.Sprintf("the kernel has no %s, which is needed by %s", module, needed[module]),
				Evidence: fmt.Sprintf("neither /sys/module/%s nor the modules of %s", module, release),
				Fix:      "modprobe " + module + "; if that fails, install the distribution's package of more kernel modules",
			})
		}
		return out, errors.Join(err, netErr)
	},
}

// modules returns the modules that the kernel has built in or can load.
func (n *Node) modules(release string) (map[string]bool, error) {
	out := map[string]bool{}
	known := false
	for _, file := range []string{"modules.builtin", "modules.dep"} {
		for _, dir := range []string{"/lib/modules/", "/usr/lib/modules/"} {
			b, err := n.read(dir + release + "/" + file)
			if err != nil {
				continue
			}
			known = true
			for line := range strings.Lines(string(b)) {
				path, _, _ := strings.Cut(strings.TrimSpace(line), ":")
				name, _, _ := strings.Cut(path[strings.LastIndexByte(path, '/')+1:], ".ko")
				out[strings.ReplaceAll(name, "-", "_")] = true
			}
		}
	}
	if !known {
		return nil, errors.New("the kernel's modules are not visible here: /lib/modules/" + release + " has no list")
	}
	return out, nil
}
