package doctor

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var pluginsCheck = Check{
	Name: "plugins", About: "the plugin of every network exists, is executable, and is for this architecture",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		users, err := neededPlugins(ctx, n)
		var out []Finding
		var links []string
		for _, name := range slices.Sorted(maps.Keys(users)) {
			path := filepath.Join(n.binDir(), name)
			if n.targetNotMounted(path) {
				links = append(links, name)
				continue
			}
			if f := program(n, path); f != nil {
				f.Severity, f.Message = Error, fmt.Sprintf("plugin %s, which %s needs, %s", name, users[name], f.Message)
				out = append(out, *f)
			}
		}
		if len(links) > 0 {
			err = errors.Join(err, fmt.Errorf("%s link to files that are not mounted here: run it on the node",
				strings.Join(links, ", ")))
		}
		return out, err
	},
}

// targetNotMounted reports whether path is a link whose target is not visible in this container. The plugins of k3s are
// in another directory, to which links lead.
func (n *Node) targetNotMounted(path string) bool {
	_, err := os.Readlink(filepath.Join(n.path(filepath.Dir(path)), filepath.Base(path)))
	return n.InPod && err == nil && !n.exists(path)
}

// neededPlugins returns the names of the needed plugins, and for each the first network that needs it.
func neededPlugins(ctx context.Context, n *Node) (map[string]string, error) {
	users := map[string]string{}
	need := func(name, owner string) {
		if _, ok := users[name]; !ok && name != "" {
			users[name] = owner
		}
	}
	s := n.setup()
	if s.file != "" {
		need(s.conf.Type, s.file)
		if s.conf.AuxiliaryChain != "" {
			need("passthru", "auxiliaryCNIChainName")
		}
	}
	networks, err := n.networks(ctx)
	for _, w := range networks {
		if slices.ContainsFunc(w.list.Types(), func(typ string) bool { return typ == "multus" || typ == shim }) {
			continue // ADD refuses it; the configuration check reports the cluster network, and lint reports definitions
		}
		for _, p := range w.plugins() {
			need(p.Type, w.owner)
			need(p.IPAM.Type, w.owner)
		}
	}
	return users, err
}

// program returns what is wrong with a program file, or nil. Message is the end of a sentence.
func program(n *Node, path string) *Finding {
	info, err := os.Stat(n.path(path))
	if err != nil {
		return &Finding{
			Message: "is missing", Evidence: "stat " + path + ": no such file",
			Fix: missingFix(n, filepath.Base(path)),
		}
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return &Finding{
			Message: "cannot be executed", Evidence: fmt.Sprintf("%s has mode %s", path, info.Mode()),
			Fix: "chmod 755 " + path,
		}
	}
	head, err := headOf(n.path(path))
	if err != nil {
		return &Finding{Message: "cannot be read", Evidence: err.Error(), Fix: missingFix(n, filepath.Base(path))}
	}
	if bytes.HasPrefix(head, []byte("#!")) {
		return nil
	}
	f, err := elf.NewFile(bytes.NewReader(head))
	want := machines[n.Arch]
	switch {
	case err != nil:
		return &Finding{
			Message:  "is not a program",
			Evidence: fmt.Sprintf("%s is neither ELF nor a script (%d bytes)", path, info.Size()),
			Fix:      "rm " + path + ", then: " + missingFix(n, filepath.Base(path)),
		}
	case want != 0 && f.Machine != want:
		return &Finding{
			Message:  "is for another architecture",
			Evidence: fmt.Sprintf("%s is %s, the node is %s", path, f.Machine, n.Arch), Fix: "install the plugin for " + n.Arch,
		}
	}
	return nil
}

// machines are the architectures for which there are images.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// headOf reads only the ELF header, without sections, because plugins are large.
func headOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	const header = 64
	b, err := io.ReadAll(io.LimitReader(f, header))
	if len(b) == header && bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
		clear(b[32:48]) // offsets of the tables that are not read
		clear(b[56:64]) // and their sizes
	}
	return b, err
}

func missingFix(n *Node, name string) string {
	if slices.Contains([]string{"multus", shim, "passthru"}, name) {
		return reinstall(n)
	}
	return "a reference plugin: add --reference-plugins to the arguments of the DaemonSet, or by hand: multus-daemon " +
		"install --dest " + n.binDir() +
		" --reference-plugins; another one comes with its own installer"
}

// reinstall returns how to install our own binaries: a daemon does it when it starts.
func reinstall(n *Node) string {
	return "kubectl -n kube-system delete pod -l app=multus --field-selector spec.nodeName=" + nameOr(n) +
		": the next one installs its own; by hand: multus-daemon install --dest " + n.binDir()
}
