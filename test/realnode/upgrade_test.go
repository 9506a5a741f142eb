package realnode

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/cluster"
)

const (
	// todaysConf is what today's daemon generates (behaviour F24, F25, J11).
	todaysConf = `{"capabilities":{},"cniVersion":"0.3.1","logLevel":"verbose","logToStderr":true,"name":"multus-cni-network",` +
		`"clusterNetwork":"/host/etc/cni/net.d/` + cluster.PrimaryFile +
		`","type":"multus-shim","daemonSocketDir":"/run/multus/"}`
	// todaysShim replaces today's plugin while its daemon is down: it waits and fails (E31).
	todaysShim = "#!/bin/sh\ncat >/dev/null\nsleep 1\n" +
		`echo '{"cniVersion":"0.3.1","code":100,"msg":"timed out waiting for the condition"}'` + "\nexit 1\n"
	hold = "/00-multus.hold.conf"
)

// TestUpgrade upgrades a node with today's Multus, and pods on it, as docs/upgrade.md describes. No pod loses a
// network, and no pod starts without its networks, although today's daemon removes its configuration when it ends.
func TestUpgrade(t *testing.T) {
	n := start(t, cluster.Options{Shared: true}) // required by the mounts of today's manifest
	n.install(t, "base")
	n.apply(t, controller("StatefulSet", "old", 2, extra, ""))
	n.untilReady(t, "old", 2)
	old := n.complete(t, "old")
	had := n.allInterfaces(t, old)
	t.Run("today's", n.becomeToday)

	t.Run("upgrade", func(t *testing.T) {
		b, err := os.ReadFile(n.Path(n.paths.Conf + "/00-multus.conf"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(n.Path(n.paths.Conf+hold), b, 0o600); err != nil {
			t.Fatal(err)
		}
		n.applyBase(t)
		n.apply(t, controller("Deployment", "many", many, extra, ""))
		until(t, "DaemonSet rolled out", func() error { return n.rolledOut(t) })
		n.untilReady(t, "many", many)
		n.traffic(t, n.complete(t, "many"))
		n.neverWithout(t, "many")
		if _, err := os.Stat(n.Path(n.paths.Conf + hold)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", hold, err)
		}
	})
	t.Run("nothing of today's manifest is left", n.asRendered)
	t.Run("old pods", func(t *testing.T) {
		now := n.complete(t, "old")
		if has := n.allInterfaces(t, now); fmt.Sprint(has) != fmt.Sprint(had) {
			t.Errorf("had %v, have %v", had, has)
		}
		for i := range now {
			if now[i].UID != old[i].UID || now[i].Status.ContainerStatuses[0].RestartCount != 0 {
				t.Errorf("%s is another one, or was restarted", now[i].Name)
			}
		}
		// The records of these pods are still those of today's Multus.
		n.scale(t, controller("StatefulSet", "old", 0, extra, ""), "old", 0)
		n.untilHeld(t, 4*many)
		n.scale(t, controller("Deployment", "many", 0, extra, ""), "many", 0)
		n.untilHeld(t, 0)
	})
}

func (n *node) allInterfaces(t *testing.T, pods []corev1.Pod) map[string]map[string][]string {
	t.Helper()
	all := map[string]map[string][]string{}
	for i := range pods {
		has, err := n.interfaces(t, &pods[i])
		if err != nil {
			t.Fatal(err)
		}
		all[pods[i].Name] = has
	}
	return all
}

// becomeToday brings the node into the state of today's Multus with the running pods: objects, configuration, plugin,
// records.
func (n *node) becomeToday(t *testing.T) {
	n.deleteDaemonSet(t)
	for what, err := range map[string]error{
		"role":    n.Client.RbacV1().ClusterRoles().Delete(t.Context(), "multus", metav1.DeleteOptions{}),
		"binding": n.Client.RbacV1().ClusterRoleBindings().Delete(t.Context(), "multus", metav1.DeleteOptions{}),
		"account": n.Client.CoreV1().ServiceAccounts("kube-system").Delete(t.Context(), "multus", metav1.DeleteOptions{}),
		"config": n.Client.CoreV1().ConfigMaps("kube-system").Delete(t.Context(), "multus-daemon-config",
			metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Fatalf("delete %s: %v", what, err)
		}
	}
	shim := n.Path(n.paths.Bin + "/multus-shim")
	for name, content := range map[string]string{
		shim + ".new":                            todaysShim,
		n.Path(n.paths.Conf + "/00-multus.conf"): todaysConf,
	} {
		if err := os.WriteFile(name, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(shim+".new", shim); err != nil {
		t.Fatal(err)
	}
	n.todaysRecords(t)
	for _, u := range objects(t, "testdata/today.yaml") {
		if err := n.ApplyClientSide(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "today's DaemonSet", func() error { return n.rolledOut(t) })
}

// todaysRecords removes from the records what today's Multus does not write (behaviour D81).
func (n *node) todaysRecords(t *testing.T) {
	t.Helper()
	known := []string{
		"Conf", "ConfList", "Name", "ifnameRequest", "macRequest", "infinibandGUIDRequest", "ipRequest", "default-route",
		"deviceID",
		"resourceName", "IsFilterV4Gateway", "IsFilterV6Gateway", "Bytes",
	}
	files, err := filepath.Glob(n.Path(ledger))
	if err != nil {
		t.Fatal(err)
	}
	records, removed := 0, 0
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
			continue
		}
		var elements []map[string]json.RawMessage
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &elements)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range elements {
			kept := map[string]json.RawMessage{}
			for _, key := range known {
				if v, ok := e[key]; ok {
					kept[key] = v
				}
			}
			removed += len(e) - len(kept)
			elements[i] = kept
		}
		if b, err = json.Marshal(elements); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		records++
	}
	if records != 2 || removed == 0 {
		t.Fatalf("%d records changed, %d members removed", records, removed)
	}
}

// applyBase does what `kubectl apply -k deploy/base` does.
func (n *node) applyBase(t *testing.T) {
	t.Helper()
	all, err := cluster.Render(filepath.Join(root, "deploy", "base"))
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all {
		if err := n.ApplyClientSide(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
}

// asRendered compares the objects, which were today's, with the manifests.
func (n *node) asRendered(t *testing.T) {
	ds, err := n.Client.AppsV1().DaemonSets("kube-system").Get(t.Context(), "kube-multus-ds", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, c := &ds.Spec.Template.Spec, &ds.Spec.Template.Spec.Containers[0]
	if p.HostPID || len(p.InitContainers) != 1 || p.InitContainers[0].Name != "install" || len(p.Containers) != 1 ||
		*c.SecurityContext.Privileged || len(c.Resources.Limits) != 1 {
		t.Errorf("of today's: hostPID %v, init containers %d, containers %d, %+v, %+v", p.HostPID, len(p.InitContainers),
			len(p.Containers), c.SecurityContext, c.Resources)
	}
	mounts := map[string]bool{}
	for _, m := range c.VolumeMounts {
		mounts[m.MountPath] = true
		if m.MountPropagation != nil {
			t.Errorf("mount %s has a propagation", m.MountPath)
		}
	}
	for _, today := range []string{"/hostroot", "/host/run", "/run/netns", "/host/etc/cni/net.d", "/var/lib/kubelet"} {
		if mounts[today] {
			t.Errorf("mount %s is left", today)
		}
	}
	if len(c.VolumeMounts) != len(p.Volumes) {
		t.Errorf("%d mounts of %d volumes", len(c.VolumeMounts), len(p.Volumes))
	}
	role, err := n.Client.RbacV1().ClusterRoles().Get(t.Context(), "multus", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range role.Rules {
		if strings.Contains(fmt.Sprint(r), "*") || strings.Contains(fmt.Sprint(r), "update") {
			t.Errorf("permission is left: %+v", r)
		}
	}
}
