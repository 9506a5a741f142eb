package deploy

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/yaml"

	"multus/internal/host/daemon"
)

// TestUninstallJob checks that the program accepts the arguments of the Job, that the image must be set, and that the
// Job is privileged only for entering the node. test/realnode runs it.
func TestUninstallJob(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(root, "uninstall", "job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var job batchv1.Job
	if err := yaml.UnmarshalStrict(b, &job); err != nil {
		t.Fatal(err)
	}
	pod := job.Spec.Template.Spec
	ours := get[appsv1.DaemonSet](t, render(t, base), "DaemonSet").Spec.Template.Spec.Containers[0]
	c := pod.Containers[0]
	// A placeholder, which cannot be pulled: a privileged container must not run an image of unknown origin that has the
	// tag "latest".
	if c.Image != "IMAGE" || !slices.Equal(c.Command, ours.Command) {
		t.Errorf("image %s, command %q", c.Image, c.Command)
	}
	cmd, rest, err := daemon.Command(func(string) string { return "" }, io.Discard).Find(c.Args)
	if err != nil || cmd.Name() != "uninstall" {
		t.Fatalf("arguments %q: %v", c.Args, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Fatal(err)
	}
	if value(t, cmd, "in-node") != "true" || !pod.HostPID || !pod.HostNetwork || !*c.SecurityContext.Privileged {
		t.Error("it cannot enter the node")
	}
	if value(t, cmd, "force") != "false" || value(t, cmd, "wait") == "0s" {
		t.Error("it does not wait for the pods that are attached")
	}
	if pod.NodeName != "NODE" || *pod.AutomountServiceAccountToken || len(pod.Volumes) != 0 {
		t.Errorf("node %q, token %v, volumes %v", pod.NodeName, *pod.AutomountServiceAccountToken, pod.Volumes)
	}
}

// TestUninstallPaths checks that docs/uninstall.md has the directories of every overlay, in one row.
func TestUninstallPaths(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/uninstall.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all(t) {
		pod := get[appsv1.DaemonSet](t, render(t, dir), "DaemonSet").Spec.Template.Spec
		paths := mounts(&pod)
		row := "| `" + paths["cni-conf"] + "` | `" + paths["cni-bin"] + "` |"
		if !strings.Contains(string(doc), row) {
			t.Errorf("%s: no row %s", dir, row)
		}
	}
}
