package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/agent/cniconfig"
	"multus/internal/cniconf"
)

var confFileCheck = Check{
	Name: "slot", About: "the runtime loads the configuration of Multus, and no other program overrides it",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		files, err := n.confFiles()
		if err != nil {
			return nil, err
		}
		out := otherWriters(n)
		if len(files) == 0 {
			return append(out, Finding{
				Severity: Error, Message: "the runtime has no CNI configuration: no pod with a network of its own can start",
				Evidence: n.confDir() + " has no .conf, .conflist or .json file",
				Fix: "kubectl -n kube-system get pods -o wide --field-selector spec.nodeName=" + nameOr(n) +
					"; look at the cluster network's",
			}), nil
		}
		return append(out, loadOrder(n, files)...), nil
	},
}

func nameOr(n *Node) string {
	if n.Name == "" {
		return "NODE"
	}
	return n.Name
}

// loadOrder checks which file the runtime loads: the first by name that is valid.
func loadOrder(n *Node, files []confFile) []Finding {
	var out []Finding
	var ours []string
	var first, list *confFile
	for i := range files {
		f := &files[i]
		isOurs := cniconf.CallsMultus(f.data) || strings.HasPrefix(filepath.Base(f.path), "00-multus.")
		if err := valid(f); err != nil {
			if isOurs {
				out = append(out, Finding{
					Severity: Error, Message: f.path + " is not a valid CNI configuration: the runtime skips it",
					Evidence: err.Error(), Fix: "kubectl -n kube-system delete pod -l app=multus --field-selector spec.nodeName=" +
						nameOr(n) + ": the daemon writes it again",
				})
			}
			continue
		}
		if isOurs {
			ours = append(ours, f.path)
			list = f
		}
		if first == nil {
			first = f
		}
	}
	switch {
	case len(ours) == 0 && len(out) == 0:
		out = append(out, Finding{
			Severity: Error, Message: "the runtime does not call Multus: pods start without the networks that they ask for",
			Evidence: fmt.Sprintf("none of the %d files in %s is a configuration of Multus", len(files), n.confDir()),
			Fix: "kubectl -n kube-system logs -l app=multus --prefix --tail=-1: the daemon says why it does not write " +
				cniconfig.FileName,
		})
	case len(ours) > 0 && first.path != ours[0]:
		out = append(out, Finding{
			Severity: Error, Message: fmt.Sprintf(
				"the runtime loads %s and not %s: pods start without the networks that they ask for", first.path, ours[0]),
			Evidence: "it comes first by name",
			Fix: fmt.Sprintf("mv %s %s/10-%s", first.path, filepath.Dir(first.path),
				strings.TrimLeft(filepath.Base(first.path), "0123456789-")),
		})
	case len(ours) > 1:
		out = append(out, duplicateConfigurations(ours, list))
	}
	return out
}

// duplicateConfigurations reports which of several configurations of Multus should be removed. The last
// of them may have another program's plugins.
func duplicateConfigurations(ours []string, last *confFile) Finding {
	others := strings.Join(cniconfig.ChainedPlugins(last.data), ", ")
	if others == "" {
		return Finding{
			Severity: Warning, Message: "more than one configuration calls Multus", Evidence: strings.Join(ours, ", "),
			Fix: "rm " + strings.Join(ours[1:], " "),
		}
	}
	return Finding{
		Severity: Warning, Message: fmt.Sprintf("plugins of another program are chained to Multus, and not called: %s",
			others),
		Evidence: fmt.Sprintf("%s has the list, and %s comes before it", last.path, ours[0]),
		Fix: fmt.Sprintf("if that program is still in use, rm %s: the daemon then keeps the list and updates Multus in "+
			"it; otherwise rm %s",
			ours[0], last.path),
	}
}

// valid returns an error if the runtime cannot load a file.
func valid(f *confFile) error {
	var err error
	if strings.HasSuffix(f.path, ".conflist") {
		_, err = libcni.NetworkConfFromBytes(f.data)
		return err
	}
	if _, err = libcni.NetworkPluginConfFromBytes(f.data); err != nil {
		return err
	}
	var head struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
	if err = json.Unmarshal(f.data, &head); err == nil && (head.Type == "" || head.Name == "") {
		err = fmt.Errorf("it needs a type and a name")
	}
	return err
}

// otherWriters reports files of programs that rename or remove the configurations of others (multus-cni#972).
func otherWriters(n *Node) []Finding {
	names, _ := n.list(n.confDir()) // the caller has listed it
	var out []Finding
	for _, name := range names {
		path := filepath.Join(n.confDir(), name)
		if strings.HasSuffix(name, ".cilium_bak") {
			out = append(out, Finding{
				Severity: Error, Message: "Cilium renames the CNI configurations of other programs", Evidence: path,
				Fix: "helm upgrade cilium … --set cni.exclusive=false, or cni-exclusive: \"false\" in the ConfigMap " +
					"cilium-config; then rm " + path,
			})
		}
	}
	return out
}
