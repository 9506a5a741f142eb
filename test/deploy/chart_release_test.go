package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"multus/internal/testutil/kubetest"
)

// definitions are the network definitions.
var definitions = schema.GroupVersionResource{
	Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions",
}

// takeOver returns the options with which, by the chart's README, a release takes the place of today's Multus.
func takeOver(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(chart, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	options := regexp.MustCompile("`(--take-ownership[^`]*)`").FindSubmatch(b)
	if options == nil {
		t.Fatal("the README has no options")
	}
	return strings.Fields(string(options[1]))
}

// TestChartRelease installs, upgrades and deletes releases with a real API server. A release takes the place of
// today's Multus; an upgrade adds and removes what the values add and remove; a second release is refused, and changes
// nothing. TestChart of test/realnode does so with pods.
func TestChartRelease(t *testing.T) {
	c := kubetest.StartWith(t, kubetest.Options{RBAC: true})
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	monitoringTypes(t, client)
	today(t, client)
	c.CreateNamespace(t, "multus-system")
	c.CreateNetwork(t, "default", "kept", `{"cniVersion":"1.0.0","name":"kept","type":"bridge"}`, nil)
	kubeconfig := c.Kubeconfig(t)
	release := func(namespace string, args ...string) error {
		_, err := runHelm(t, append(args, "--kubeconfig", kubeconfig, "--namespace", namespace)...)
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	daemonSet := func() *appsv1.DaemonSet {
		t.Helper()
		ds, err := c.Client().AppsV1().DaemonSets("kube-system").Get(t.Context(), daemonPods, metav1.GetOptions{})
		must(err)
		return ds
	}
	if err := release("kube-system", "install", "multus", chart); err == nil {
		t.Error("today's Multus is replaced without being asked")
	}
	must(release("kube-system", append([]string{"install", "multus", chart}, takeOver(t)...)...))
	first := daemonSet()
	if pod := first.Spec.Template.Spec; pod.HostPID || len(pod.InitContainers) != 1 ||
		mounted(pod.Containers[0], "/hostroot") {
		t.Errorf("the DaemonSet has something of the one that it replaces: %+v", pod)
	}

	all := strings.Join(withEverything("repair.mode=evict", "metrics.auth=kubernetes", "metrics.podMonitor.enabled=true",
		"metrics.prometheusRule.enabled=true", "grafanaDashboard.enabled=true", "definitionPolicy.enabled=true",
		"definitionRoles.enabled=true", "dra.claimStatusDrivers[0]=d.example"), ",")
	must(release("kube-system", "upgrade", "multus", chart, "--set", all))
	webhooks := func() error {
		_, err := c.Client().AppsV1().Deployments("kube-system").Get(t.Context(), webhookPods, metav1.GetOptions{})
		return err
	}
	must(webhooks())
	full := daemonSet()
	for _, namespace := range []string{"kube-system", "multus-system"} {
		if err := release(namespace, "install", "second", chart); err == nil || !strings.Contains(err.Error(), "ownership") {
			t.Errorf("a second release in %s: %v", namespace, err)
		}
	}
	if d := cmp.Diff(full.Spec, daemonSet().Spec); d != "" {
		t.Errorf("the refused release (-before +after):\n%s", d)
	}
	sets, err := c.Client().AppsV1().DaemonSets("multus-system").List(t.Context(), metav1.ListOptions{})
	must(err)
	if len(sets.Items) > 0 {
		t.Errorf("the refused release has made %s", sets.Items[0].Name)
	}

	must(release("kube-system", "upgrade", "multus", chart, "--reset-values"))
	if d := cmp.Diff(first.Spec, daemonSet().Spec); d != "" {
		t.Errorf("with the first values again (-first +again):\n%s", d)
	}
	if err := webhooks(); !apierrors.IsNotFound(err) {
		t.Errorf("the webhook without its value: %v", err)
	}
	must(release("kube-system", "uninstall", "multus", "--no-hooks"))
	roles, err := c.Client().RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{})
	must(err)
	for _, role := range roles.Items {
		if strings.HasPrefix(role.Name, "multus") {
			t.Errorf("ClusterRole %s is left", role.Name)
		}
	}
	networks, err := client.Resource(definitions).List(t.Context(), metav1.ListOptions{})
	must(err)
	if len(networks.Items) != 1 {
		t.Errorf("%d network definitions are left, want 1", len(networks.Items))
	}
}
