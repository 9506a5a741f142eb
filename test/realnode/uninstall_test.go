package realnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"multus/internal/testutil/cluster"
)

// uninstall follows docs/uninstall.md while a pod is attached. The node always has a cluster network, the pod keeps
// what it has, and all of it is free when the pod is gone, although the runtime does not call Multus for it.
func (n *node) uninstall(t *testing.T) {
	n.apply(t, pod("stays", extra))
	n.untilAttached(t, "stays")
	before, err := n.Client.CoreV1().Pods("default").Get(t.Context(), "stays", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	had, err := n.interfaces(t, before)
	if err != nil {
		t.Fatal(err)
	}
	n.deleteDaemonSet(t)
	n.runningPlain(t, "between") // the daemon is gone, and its configuration exists
	job := n.createJob(t)
	until(t, "the runtime does not call Multus any more", func() error {
		if _, err := os.Stat(n.Path(n.paths.Conf + "/00-multus.conf")); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("CNI configuration: %w", err)
		}
		return nil
	})
	n.runningPlain(t, "after")
	if has, err := n.interfaces(t, before); err != nil || fmt.Sprint(has) != fmt.Sprint(had) {
		t.Errorf("the attached pod has %v, %v; had %v", has, err, had)
	}
	if j, err := n.Client.BatchV1().Jobs("kube-system").Get(t.Context(), job, metav1.GetOptions{}); err != nil ||
		j.Status.Succeeded != 0 || j.Status.Failed != 0 {
		t.Errorf("the job does not wait for the attached pod: %v %+v", err, j.Status)
	}
	if _, err := os.Stat(n.Path(n.paths.Bin + "/multus-shim")); err != nil {
		t.Errorf("the plugin is gone before the last attached pod: %v", err)
	}
	n.remove(t, "stays")
	n.untilComplete(t, job)
	n.untilHeld(t, 0)
	n.wantUninstalled(t)
	n.runningPlain(t, "at-the-end")
	n.untilHeld(t, 0)
}

// untilComplete waits until the Job is complete.
func (n *node) untilComplete(t *testing.T, job string) {
	t.Helper()
	until(t, "job Complete", func() error {
		j, err := n.Client.BatchV1().Jobs("kube-system").Get(t.Context(), job, metav1.GetOptions{})
		if err == nil && !slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue
		}) {
			err = fmt.Errorf("%+v", j.Status)
		}
		return err
	})
}

// wantUninstalled checks that nothing of Multus is left on the node.
func (n *node) wantUninstalled(t *testing.T) {
	t.Helper()
	if err := n.uninstalled(); err != nil {
		t.Error(err)
	}
}

// uninstalled returns an error if something of Multus is left on the node.
func (n *node) uninstalled() error {
	var errs []error
	for _, left := range []string{
		"/var/lib/cni/multus", n.paths.Bin + "/multus-shim", n.paths.Bin + "/multus",
		n.paths.Bin + "/passthru",
	} {
		if _, err := os.Lstat(n.Path(left)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, errors.Join(fmt.Errorf("left: %s", left), err))
		}
	}
	if confs, err := filepath.Glob(n.Path(n.paths.Conf + "/*")); err != nil || len(confs) != 1 ||
		filepath.Base(confs[0]) != cluster.PrimaryFile {
		errs = append(errs, errors.Join(fmt.Errorf("CNI configurations: %q", confs), err))
	}
	return errors.Join(errs...)
}

func (n *node) deleteDaemonSet(t *testing.T) {
	t.Helper()
	if err := n.Client.AppsV1().DaemonSets("kube-system").Delete(t.Context(), "kube-multus-ds",
		metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.untilNoPods(t, "kube-system", "app=multus")
}

// untilNoPods waits until the pods of a DaemonSet are gone.
func (n *node) untilNoPods(t *testing.T, namespace, labels string) {
	t.Helper()
	until(t, "DaemonSet and its pod are gone", func() error {
		l, err := n.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: labels})
		if err == nil && len(l.Items) != 0 {
			err = fmt.Errorf("%d pods", len(l.Items))
		}
		return err
	})
}

// createJob creates the Job of the manifests, for this node, and returns its name.
func (n *node) createJob(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "deploy", "uninstall", "job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var job batchv1.Job
	if err := yaml.UnmarshalStrict(
		[]byte(strings.NewReplacer("NODE", cluster.NodeName, "IMAGE", "localhost/multus:latest").Replace(string(b))),
		&job); err != nil {
		t.Fatal(err)
	}
	made, err := n.Client.BatchV1().Jobs("kube-system").Create(t.Context(), &job,
		metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		t.Fatal(err)
	}
	return made.Name
}

// runningPlain runs a pod without additional networks and removes it.
func (n *node) runningPlain(t *testing.T, name string) {
	t.Helper()
	n.apply(t, pod(name, "{}"))
	n.untilRunning(t, name)
	n.remove(t, name)
}

// untilRunning waits until a pod is Ready.
func (n *node) untilRunning(t *testing.T, name string) {
	t.Helper()
	until(t, name+" Ready", func() error {
		p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && !ready(p) {
			err = fmt.Errorf("pod is %s", p.Status.Phase)
		}
		return err
	})
}
