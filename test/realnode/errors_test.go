package realnode

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/source/kube"
	"multus/internal/testutil/cluster"
)

// pluginLog is the log of the plugin on the node.
const pluginLog = "/var/log/multus.log"

// TestErrorsAreEqual checks that the reason why a pod does not start is one line, and that it is the same line in the
// kubelet's event, in the event of Multus, in the daemon's log and in the plugin's log, with the request in each of
// them (docs/errors.md).
func TestErrorsAreEqual(t *testing.T) {
	n := start(t, cluster.Options{})
	n.install(t, "base")
	n.configure(t, `"logToStderr": true`, `"logToStderr": true, "logFile": "`+pluginLog+`"`)
	n.apply(t, strings.Replace(network("refused", 5), `"master"`, `"mode":"sideways","master"`, 1))
	n.apply(t, strings.Replace(network("elsewhere", 6), cluster.Uplink, "eth9", 1))
	for _, tc := range []struct{ name, network, says, fix, log string }{
		{
			"missing", "net-none", `cannot find a network-attachment-definition (net-none) in namespace (default): `,
			"create the network-attachment-definition, or correct the annotation", "ADD failed",
		},
		{
			"delegate", "refused", `error adding container to network "default/refused" (interface net1): plugin type="macvlan" name="refused" failed (add): unknown macvlan mode: "sideways"`,
			"look at the configuration of network default/refused and at the message of its plugin", "ADD failed",
		},
		{
			"master", "elsewhere", `master "eth9" of network default/elsewhere is not on this node; interfaces of this node: `,
			`change "master" in the network attachment definition default/elsewhere`, "ADD failed",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n.apply(t, pod(tc.name, `{k8s.v1.cni.cncf.io/networks: "`+tc.network+`"}`))
			ours, line := n.equalEvents(t, tc.name)
			t.Log(line)
			p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), tc.name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(line, fmt.Sprintf("Multus: [default/%s/%s]: ", tc.name, p.UID)) ||
				!strings.Contains(line, tc.says) || !strings.Contains(line, "; "+tc.fix) {
				t.Errorf("%s\nwant: %s … %s", line, tc.says, tc.fix)
			}
			if strings.Count(line, tc.network) > 3 || strings.ContainsAny(line, "\n\\") || strings.Count(line, "Multus: ") != 1 {
				t.Errorf("not one plain line: %q", line)
			}
			n.logged(t, "daemon", "/var/log/pods/kube-system_kube-multus-ds-*/*/*.log", tc.log,
				ours.Annotations[kube.RequestAnnotation], line)
			n.logged(t, "plugin", pluginLog, "request failed", ours.Annotations[kube.RequestAnnotation], line)
			n.remove(t, tc.name)
		})
	}
	n.untilHeld(t, 0)
	// The other events have the text of today's Multus. Their annotation has the request.
	l, err := n.Client.CoreV1().Events("default").List(t.Context(),
		metav1.ListOptions{FieldSelector: "reason=NoNetworkFound,involvedObject.name=missing"})
	if err != nil || len(l.Items) == 0 {
		t.Fatalf("no event NoNetworkFound: %v", err)
	}
	for _, e := range l.Items {
		if !strings.HasPrefix(e.Message, "cannot find a network-attachment-definition (net-none) in namespace (default): ") ||
			len(e.Annotations[kube.RequestAnnotation]) != 64 {
			t.Errorf("%s %v", e.Message, e.Annotations)
		}
	}
}

// configure replaces a string in the daemon's configuration and restarts the daemon.
func (n *node) configure(t *testing.T, from, to string) {
	t.Helper()
	n.edit(t, from, to)
	n.rollDaemon(t)
}

// edit replaces a string in the daemon's configuration.
func (n *node) edit(t *testing.T, from, to string) {
	t.Helper()
	configs := n.Client.CoreV1().ConfigMaps("kube-system")
	config, err := configs.Get(t.Context(), "multus-daemon-config", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const key = "daemon-config.json"
	if !strings.Contains(config.Data[key], from) {
		t.Fatalf("%s is not there to be changed: %s", from, config.Data[key])
	}
	config.Data[key] = strings.ReplaceAll(config.Data[key], from, to)
	if _, err := configs.Update(t.Context(), config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// requested matches the request at the end of an error.
var requested = regexp.MustCompile(`; request ([0-9a-f]{13})$`)

// equalEvents waits for the event of Multus about a failed pod, and for an event of the kubelet that ends with the same
// line.
func (n *node) equalEvents(t *testing.T, name string) (ours corev1.Event, line string) {
	t.Helper()
	until(t, "kubelet's event has the line of ours", func() error {
		l, err := n.Client.CoreV1().Events("default").List(t.Context(),
			metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		var kubelets []string
		for _, e := range l.Items {
			switch {
			case e.Source.Component == "multus" && e.Reason == "FailedAddingInterface":
				ours, line = e, e.Message
			case e.Source.Component == "kubelet" && e.Reason == "FailedCreatePodSandBox":
				kubelets = append(kubelets, e.Message)
			}
		}
		for _, k := range kubelets {
			if line != "" && strings.HasSuffix(k, line) {
				return nil
			}
		}
		return fmt.Errorf("ours: %q, kubelet's: %q", line, kubelets)
	})
	m := requested.FindStringSubmatch(line)
	if m == nil || !strings.HasPrefix(ours.Annotations[kube.RequestAnnotation], m[1]) {
		t.Errorf("no request, or another than the event's annotation: %s, %v", line, ours.Annotations)
	}
	return ours, line
}

// logged waits for a line in a log about a request, with the same error.
func (n *node) logged(t *testing.T, who, pattern, message, containerID, line string) {
	t.Helper()
	want := []string{"[error] " + message, "container=" + containerID, fmt.Sprintf("err=%q", line)}
	until(t, "the "+who+"'s log", func() error {
		files, err := filepath.Glob(n.Path(pattern))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("no log %s: %w", pattern, err)
		}
		var last string
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for text := range strings.Lines(string(b)) {
				if !strings.Contains(text, "container="+containerID) {
					continue
				}
				last = text
				if strings.Contains(text, want[0]) && strings.Contains(text, want[2]) {
					return nil
				}
			}
		}
		return fmt.Errorf("want %q, the last line of the request is %s", want, last)
	})
}
