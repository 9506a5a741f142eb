package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// defaultDataDir is the default directory of host-local's reservations.
const defaultDataDir = "/var/lib/cni/networks"

var reservationsCheck = Check{
	Name: "reservations", About: "every address that host-local has reserved belongs to a known container",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		known, err := n.containers()
		if err != nil {
			return nil, err
		}
		dirs := map[string]bool{defaultDataDir: true}
		networks, _ := n.networks(ctx) // the default directory is checked in any case
		for _, w := range networks {
			for _, p := range w.plugins() {
				if p.IPAM.Type == "host-local" && p.IPAM.DataDir != "" {
					dirs[p.IPAM.DataDir] = true
				}
			}
		}
		var out []Finding
		var errs []error
		for _, dir := range slices.Sorted(maps.Keys(dirs)) {
			if err := n.notMounted(dir); err != nil {
				errs = append(errs, err)
				continue
			}
			names, err := n.list(dir)
			errs = append(errs, err)
			for _, name := range names {
				if f := leaked(n, filepath.Join(dir, name), known); f != nil {
					out = append(out, *f)
				}
			}
		}
		return out, errors.Join(errs...)
	},
}

// leaked checks the reservations of one network: a file for each address, which contains the container ID.
func leaked(n *Node, dir string, known map[string]bool) *Finding {
	names, err := n.list(dir)
	if err != nil {
		return nil // it is a file, which does not belong to host-local
	}
	var files []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		if _, err := netip.ParseAddr(name); err != nil {
			continue
		}
		info, err := os.Stat(n.path(path))
		b, readErr := n.read(path)
		if err != nil || readErr != nil || n.Now.Sub(info.ModTime()) < grace {
			continue
		}
		id, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		if id = strings.TrimSpace(id); !known[id] {
			files = append(files, path)
		}
	}
	if len(files) == 0 {
		return nil
	}
	const most = 5
	shown := files[:min(most, len(files))]
	return &Finding{
		Severity: Warning, Message: fmt.Sprintf("%d %s of network %s reserved for unknown containers", len(files),
			plural(len(files), "address"), filepath.Base(dir)),
		Evidence: strings.Join(shown, ", "),
		Fix:      "make sure that no container uses them (crictl pods), then: rm " + strings.Join(shown, " "),
	}
}

// containers returns the containers in the ledger and in libcni's caches, which include those whose networks Multus did
// not create.
func (n *Node) containers() (map[string]bool, error) {
	ids, err := n.ledger().Containers()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, id := range ids {
		known[id] = true
	}
	for _, dir := range []string{"/var/lib/cni/results", "/var/lib/cni/cache/results"} {
		names, err := n.list(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			var entry struct {
				ContainerID string `json:"containerId"`
			}
			if b, err := n.read(filepath.Join(dir, name)); err == nil && json.Unmarshal(b, &entry) == nil {
				known[entry.ContainerID] = true
			}
		}
	}
	return known, nil
}
