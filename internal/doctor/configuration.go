package doctor

import (
	"context"
	"fmt"
	"strings"

	"multus/internal/agent/cniconfig"
	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/fsx"
	"multus/internal/source/kube"
)

var configurationCheck = Check{
	Name: "configuration", About: "the configurations of Multus can be read, and what they name exists",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		s := n.setup()
		var out []Finding
		daemonFile := n.daemonFile()
		if b, err := n.read(daemonFile); err == nil {
			conf, err := config.ParseDaemon(b)
			if err == nil {
				err = conf.Usable()
			}
			if err != nil {
				out = append(out, Finding{
					Severity: Error, Message: "the daemon's configuration cannot be read: it does not start",
					Evidence: daemonFile + ": " + err.Error(),
					Fix:      "kubectl -n kube-system edit configmap multus-daemon-config",
				})
			}
			out = append(out, unknown(daemonFile, b)...)
		}
		if s.file == "" {
			return out, nil
		}
		out = append(out, unknown(s.file, s.raw)...)
		if err := s.conf.HasNetwork(); err != nil {
			out = append(out, Finding{
				Severity: Error, Message: "Multus has nothing to delegate to", Evidence: err.Error(),
				Fix: "set clusterNetwork in " + s.file,
			})
		}
		return append(append(out, clusterNetwork(n, s)...), kubeconfig(n, s)...), nil
	},
}

// unknown reports keys that Multus does not read. They are accepted, so that a typo would have no effect without any
// message.
func unknown(file string, conf []byte) []Finding {
	keys := config.Unknown(conf)
	if len(keys) == 0 {
		return nil
	}
	return []Finding{{
		Severity: Warning, Message: fmt.Sprintf("Multus ignores the %s %s", plural(len(keys), "key"),
			strings.Join(keys, ", ")),
		Evidence: file,
		Fix:      "correct or remove them; docs/configuration.md lists all keys",
	}}
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// clusterNetwork checks the file that clusterNetwork names.
func clusterNetwork(n *Node, s *setup) []Finding {
	file := s.conf.ClusterNetwork
	if !strings.Contains(file, "/") {
		return nil
	}
	read, _ := cniconfig.ClusterNetworkFiles(n.path(file))
	b, err := fsx.ReadFile(read, cniconf.MaxFile)
	if err == nil && cniconf.CallsMultus(b) {
		return []Finding{{
			Severity: Error, Message: "the cluster network is Multus itself", Evidence: s.file + " names " + file,
			Fix: "set multusMasterCNI to the file of the cluster network in the daemon's configuration",
		}}
	}
	if err == nil {
		_, err = cniconf.LoadFile(read)
	} else if n.exists(file) {
		err = nil // a directory
	}
	if err != nil {
		return []Finding{{
			Severity: Error, Message: "the cluster network cannot be read: no pod can start", Evidence: err.Error(),
			Fix: "kubectl -n kube-system get pods -o wide: look at the cluster network's on this node; it writes " + file,
		}}
	}
	return nil
}

// kubeconfig checks the credentials of the thin plugin (multus-cni#852).
func kubeconfig(n *Node, s *setup) []Finding {
	if s.conf.Kubeconfig == "" {
		return nil
	}
	c, err := kube.Load(kube.Options{Kubeconfig: n.path(s.conf.Kubeconfig)})
	if err != nil {
		return []Finding{{
			Severity: Error, Message: "the kubeconfig of the plugin cannot be used",
			Evidence: s.conf.Kubeconfig + ": " + err.Error(),
			Fix: "kubectl -n kube-system delete pod -l app=multus --field-selector spec.nodeName=" + nameOr(n) +
				": it is written again",
		}}
	}
	end, what, err := kube.Expiry(c)
	if err == nil && !end.IsZero() && end.Before(n.Now) {
		return []Finding{{
			Severity: Error, Message: fmt.Sprintf("the %s of the plugin has expired", what),
			Evidence: fmt.Sprintf("%s: %s", s.conf.Kubeconfig, end.UTC().Format("2006-01-02 15:04:05Z")),
			Fix: "kubectl -n kube-system delete pod -l app=multus --field-selector spec.nodeName=" + nameOr(n) +
				": it is written again",
		}}
	}
	return nil
}
