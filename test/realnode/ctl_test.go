package realnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/cli"
	"multus/internal/doctor"
	"multus/internal/testutil/cluster"
)

// TestOtherNode runs `kubectl multus` on a machine that is no node. For checks that depend on a node it runs multusctl
// in the daemon's pod on that node, with a real kubectl (doctor --node, explain --node).
func TestOtherNode(t *testing.T) {
	n := start(t, cluster.Options{})
	n.install(t, "base")
	w := n.workstation(t)
	for _, scenario := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"healthy", func(t *testing.T) { w.healthy(t) }},
		{"faults", func(t *testing.T) { n.faults(t, w) }},
		{"graph", func(t *testing.T) { n.drawGraph(t, w) }},
		{"doctor", func(t *testing.T) { n.drawDoctor(t, w) }},
		{"devices", func(t *testing.T) { w.devices(t) }},
		{"explain", func(t *testing.T) { n.explained(t, w) }},
		{"explain what would fail", func(t *testing.T) { w.wouldFail(t) }},
		{"no such node", func(t *testing.T) { w.noNode(t) }},
		{"completion", func(t *testing.T) {
			if out := w.kubectl(t, "__complete", "multus", "doctor", "--no"); !strings.Contains(out, "--node") {
				t.Errorf("%s", out)
			}
		}},
		{"without a daemon", func(t *testing.T) { n.withoutDaemon(t, w) }},
		{"thin", func(t *testing.T) { n.install(t, "overlays/thin"); w.healthy(t); n.explained(t, w) }},
	} {
		if !t.Run(scenario.name, scenario.run) {
			return
		}
	}
}

// TestOtherNodeOfDistribution checks a distribution with other directories. In the pod they are known only from the
// daemon's configuration file.
func TestOtherNodeOfDistribution(t *testing.T) {
	n := start(t, cluster.Options{Paths: k3s})
	n.install(t, "overlays/k3s")
	w := n.workstation(t)
	w.healthy(t)
	n.explained(t, w)
}

// workstation is a machine from which the cluster is administered.
type workstation struct{ kubeconfig, programs string }

func (n *node) workstation(t *testing.T) *workstation {
	t.Helper()
	kubeconfig, err := n.Outside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Abs(filepath.Join(root, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	return &workstation{kubeconfig, bin}
}

// run runs `kubectl multus` with these arguments and returns its exit code and output.
func (w *workstation) run(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	const limit = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(w.programs, "tools", "kubectl"), append([]string{"multus"}, args...)...)
	cmd.Env = []string{
		"PATH=" + w.programs + ":" + filepath.Join(w.programs, "tools"), "HOME=" + t.TempDir(),
		"KUBECONFIG=" + w.kubeconfig,
	}
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !exit.Exited()) {
		t.Fatalf("kubectl multus %q: %v\n%s%s", args, err, out.String(), errs.String())
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// kubectl runs kubectl, which must succeed.
func (w *workstation) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	const limit = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(w.programs, "tools", "kubectl"), args...)
	cmd.Env = []string{"PATH=" + w.programs, "HOME=" + t.TempDir(), "KUBECONFIG=" + w.kubeconfig}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("kubectl %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// withoutDaemon follows docs/multusctl.md for a node whose daemon does not run.
func (n *node) withoutDaemon(t *testing.T, w *workstation) {
	n.deleteDaemonSet(t)
	out := w.kubectl(t, "debug", "node/"+cluster.NodeName, "--profile=sysadmin", "--image=localhost/multus:latest",
		"--image-pull-policy=IfNotPresent", "--",
		"/usr/src/multus-cni/bin/multusctl", "doctor", "--root", "/host", "-o", "json")
	name := regexp.MustCompile(`node-debugger-\S+`).FindString(out)
	until(t, "the debug pod has ended", func() error {
		p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodFailed { // the exit code for findings
			err = fmt.Errorf("pod is %s", p.Status.Phase)
		}
		return err
	})
	out = w.kubectl(t, "logs", name)
	n.remove(t, name)
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(r.Findings) != 1 || r.Findings[0].Check != "daemon" ||
		!strings.HasPrefix(r.Findings[0].Message, "the daemon does not answer") {
		t.Errorf("%+v", r.Findings)
	}
	for _, c := range r.Checks {
		if slices.Contains([]string{"slot", "netns", "ledger", "reservations"}, c.Name) && c.State != doctor.StateOK {
			t.Errorf("%+v", c)
		}
		// The configuration of containerd is in a directory of the test, where no distribution has it.
		if c.Name == "runtime" && (c.State != doctor.StateUnchecked ||
			!strings.Contains(c.Why, "no configuration of containerd")) {
			t.Errorf("%+v", c)
		}
	}
}

// decoded runs a command that must end with this exit code, and decodes its output.
func (w *workstation) decoded(t *testing.T, want int, v any, stdin string, args ...string) {
	t.Helper()
	code, out, errs := w.run(t, stdin, append(args, "--node", cluster.NodeName, "-o", "json")...)
	if code != want || errs != "" {
		t.Errorf("kubectl multus %q: exit code %d, want %d\n%s%s", args, code, want, out, errs)
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("kubectl multus %q: %v\n%s%s", args, err, out, errs)
	}
}

// healthy checks that nothing is found, and that everything that a pod can check was checked.
func (w *workstation) healthy(t *testing.T) {
	t.Helper()
	var r doctor.Report
	w.decoded(t, cli.OK, &r, "", "doctor")
	if r.Node != cluster.NodeName || len(r.Findings) != 0 {
		t.Errorf("%+v", r)
	}
	for _, c := range r.Checks {
		if slices.Contains([]string{"slot", "configuration", "plugins", "daemon", "api", "interfaces"}, c.Name) &&
			c.State != doctor.StateOK {
			if c.Name != "plugins" || !strings.Contains(c.Why, "not mounted here") { // in k3s these are links
				t.Errorf("%+v", c)
			}
		}
	}
}

// faults creates faults on the node and in the cluster. They are found with exit code 1, and are no longer found after
// they are repaired.
func (n *node) faults(t *testing.T, w *workstation) {
	left := n.Path(n.paths.Conf + "/00-multus.conf.cilium_bak")
	if err := os.WriteFile(left, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.apply(t, strings.Replace(network("tagged", 9), `"macvlan"`, `"vlan"`, 1))
	n.apply(t, strings.Replace(network("elsewhere", 8), cluster.Uplink, "eth9", 1))
	var r doctor.Report
	w.decoded(t, cli.Found, &r, "", "doctor")
	for check, says := range map[string]string{
		"slot":       "Cilium renames the CNI configurations of other programs",
		"plugins":    "plugin vlan, which network-attachment-definition default/tagged needs, is missing",
		"interfaces": "network-attachment-definition default/elsewhere names the master eth9, which this node does not have",
	} {
		if !slices.ContainsFunc(r.Findings,
			func(f doctor.Finding) bool { return f.Check == check && f.Message == says && f.Fix != "" }) {
			t.Errorf("%s: %s: is not among %+v", check, says, r.Findings)
		}
	}
	if len(r.Findings) != 3 {
		t.Errorf("%+v", r.Findings)
	}
	if code, out, errs := w.run(t, "", "doctor", "--node", cluster.NodeName); code != cli.Found ||
		!strings.Contains(out, "FOUND") || errs != "" {
		t.Errorf("for people: %d\n%s%s", code, out, errs)
	}
	if err := os.Remove(left); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tagged", "elsewhere"} {
		n.deleteNetwork(t, name)
	}
	w.healthy(t)
}

// devices checks that the listed devices are those of the node and not of the machine that runs kubectl.
func (w *workstation) devices(t *testing.T) {
	var list struct {
		Devices []struct {
			Name string
			Free bool
		}
	}
	w.decoded(t, cli.OK, &list, "", "devices")
	free := map[string]bool{}
	for _, d := range list.Devices {
		free[d.Name] = d.Free
	}
	if there, ok := free["node0"]; !ok || there {
		t.Errorf("node0, which has the node's address: %v", free)
	}
	if !free[cluster.Uplink] {
		t.Errorf("%s is free: %v", cluster.Uplink, free)
	}
}

// explanation has the parts of the output of `explain -o json` for one pod that are compared.
type explanation struct {
	Attachments []struct {
		Network, Interface string
		Plugins            []struct{ Type string }
	}
	Problems []string
	Failure  *struct {
		Code    uint
		Message string
	}
}

func (w *workstation) explain(t *testing.T, want int, stdin string, args ...string) *explanation {
	t.Helper()
	var out struct{ Pods []explanation }
	w.decoded(t, want, &out, stdin, append([]string{"explain"}, args...)...)
	if len(out.Pods) != 1 {
		t.Fatalf("%d pods", len(out.Pods))
	}
	return &out.Pods[0]
}

// explained checks that the output for a pod matches what the pod has. The configuration of the cluster network is only
// on the node.
func (n *node) explained(t *testing.T, w *workstation) {
	t.Helper()
	n.apply(t, pod("shown", extra))
	n.untilAttached(t, "shown")
	p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), "shown", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	has, err := networkStatus(p)
	if err != nil {
		t.Fatal(err)
	}
	x := w.explain(t, cli.OK, "", "pod", "default/shown")
	if len(x.Attachments) != len(has) || len(x.Problems) != 0 || x.Failure != nil {
		t.Fatalf("%+v, and the pod has %+v", x, has)
	}
	for i, a := range x.Attachments {
		if a.Network != has[i].Name || a.Interface != has[i].Interface || len(a.Plugins) != 1 ||
			a.Plugins[0].Type != []string{"bridge", "macvlan", "macvlan"}[i] {
			t.Errorf("%+v, and the pod has %+v", a, has[i])
		}
	}
	n.remove(t, "shown")
	n.untilHeld(t, 0)
}

// wouldFail checks pods from files, which are not in the cluster, with the node's plugins and interfaces.
func (w *workstation) wouldFail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "networks.yaml")
	networks := strings.Replace(network("tagged", 9), `"macvlan"`, `"vlan"`, 1) + "---\n" +
		strings.Replace(network("elsewhere", 8), cluster.Uplink, "eth9", 1)
	if err := os.WriteFile(file, []byte(networks), 0o600); err != nil {
		t.Fatal(err)
	}
	x := w.explain(t, cli.Found, pod("thought-of", `{k8s.v1.cni.cncf.io/networks: "net-a,tagged,elsewhere"}`), "-f", "-",
		"-f", file)
	if len(x.Attachments) != 4 || len(x.Problems) != 2 || x.Failure != nil {
		t.Fatalf("%+v", x)
	}
	if !strings.Contains(x.Problems[0], "plugin vlan of network default/tagged is not in /opt/cni/bin") ||
		!strings.Contains(x.Problems[1],
			`master "eth9" of network default/elsewhere is not on this node; interfaces of this node: `) ||
		!strings.Contains(x.Problems[1], cluster.Uplink) {
		t.Errorf("%q", x.Problems)
	}
	x = w.explain(t, cli.Found, pod("thought-of", `{k8s.v1.cni.cncf.io/networks: "net-none"}`), "-f", "-")
	if x.Failure == nil || x.Failure.Code != 7 ||
		!strings.Contains(x.Failure.Message, "(net-none) in namespace (default)") {
		t.Errorf("%+v", x)
	}
}

// noNode checks that errors have one line and the documented exit code.
func (w *workstation) noNode(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		errs string
	}{
		{
			[]string{"doctor", "--node", "node-z"},
			cli.Found,
			"error: no daemon runs on node node-z, or there is no such node: run `multusctl doctor` there, as root; " +
				"docs/multusctl.md describes nodes without a daemon\n",
		},
		{[]string{"explain", "pod", "default/missing", "--node", cluster.NodeName}, cli.Found, ""},
		{
			[]string{"doctor", "--node", cluster.NodeName, "-o", "xml"},
			cli.Usage,
			"error: unknown output format \"xml\": want table, json, yaml\n\nSee 'kubectl multus doctor --help'.\n",
		},
	} {
		code, out, errs := w.run(t, "", tc.args...)
		if code != tc.code || tc.errs != "" && errs != tc.errs {
			t.Errorf("%q: %d %s%s", tc.args, code, out, errs)
		}
	}
}

// deleteNetwork deletes a network definition.
func (n *node) deleteNetwork(t *testing.T, name string) {
	t.Helper()
	err := n.Client.CoreV1().RESTClient().Delete().AbsPath(
		"/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions/" + name).Do(t.Context()).Error()
	if err != nil {
		t.Fatal(err)
	}
}
