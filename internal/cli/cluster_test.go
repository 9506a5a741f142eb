package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"multus/internal/doctor"
	"multus/internal/testutil/kubetest"
)

// waitTimeout limits how long a test waits.
const waitTimeout = 30 * time.Second

// TestAgainstAPIServer runs the commands that use a cluster against a real API server with RBAC. It checks that the
// permissions which the doctor requires are those of the manifests (multus-cni#852,
// k8snetworkplumbingwg/helm-charts#2), and that applied objects are shown.
func TestAgainstAPIServer(t *testing.T) {
	t.Parallel()
	cluster := kubetest.StartWith(t, kubetest.Options{RBAC: true})
	cluster.CreateNamespace(t, "team-a")
	cluster.CreateNetwork(t, "team-a", "storage", `{"cniVersion":"1.0.0","type":"macvlan","master":"eth1"}`, nil)
	cluster.CreatePod(t, "team-a", "web-0", map[string]string{"k8s.v1.cni.cncf.io/networks": "storage@data0"})
	admin := cluster.Kubeconfig(t)

	code, out, errs := call(t, nil, "explain", "pod", "team-a/web-0", "--kubeconfig", admin)
	if code != OK || !strings.Contains(out, "2. data0: team-a/storage") ||
		!strings.Contains(out, "network-attachment-definition team-a/storage") {
		t.Errorf("explain: %d\n%s%s", code, out, errs)
	}
	code, out, errs = call(t, map[string]string{"KUBECONFIG": admin}, "networks")
	if code != OK || !strings.Contains(out, "team-a/storage  macvlan  eth1") {
		t.Errorf("networks: %d\n%s%s", code, out, errs)
	}
	code, out, errs = call(t, nil, "graph", "--format", "dot", "--kubeconfig", admin)
	if code != OK || !strings.Contains(out,
		`"network team-a/storage" -- "pod team-a/web-0" [label="asked for data0", style=dashed]`) {
		t.Errorf("graph: %d\n%s%s", code, out, errs)
	}
	code, _, errs = call(t, nil, "explain", "pod", "team-a/none", "--kubeconfig", admin)
	if code != Found {
		t.Errorf("a pod that does not exist: %d %s", code, errs)
	}
	t.Run("networks of running pods", func(t *testing.T) { testPodNetworks(t, cluster, admin) })

	account := cluster.KubeconfigFor(t, cluster.Addr(), cluster.ServiceAccountToken(t, "team-a", "multus"))
	found, state := apiFindings(t, account)
	if len(found) != 2 || !strings.Contains(found[0].Message, "list network-attachment-definitions.k8s.cni.cncf.io") ||
		!strings.Contains(found[1].Message, "get resourceclaims.resource.k8s.io") || state != doctor.StateFound {
		t.Errorf("without a role: %s %+v", state, found)
	}
	grant(t, cluster)
	deadline := time.Now().Add(waitTimeout) // the API server needs some time to apply a role
	for found, state = apiFindings(t, account); len(found) > 0 && time.Now().Before(deadline); {
		found, state = apiFindings(t, account)
	}
	if len(found) > 0 || state != doctor.StateOK {
		t.Errorf("with the role of the manifests: %s %+v", state, found)
	}
	if found, _ := apiFindings(t, cluster.KubeconfigFor(t, "127.0.0.1:1", "x")); len(found) != 1 ||
		found[0].Message != "the API server cannot be reached" {
		t.Errorf("API server unavailable: %+v", found)
	}
}

// apiFindings returns the findings of the doctor about the API server.
func apiFindings(t *testing.T, kubeconfig string) ([]doctor.Finding, string) {
	t.Helper()
	_, out, errs := call(t, nil, "doctor", "-o", "json", "--root", t.TempDir(), "--kubeconfig", kubeconfig)
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	i := slices.IndexFunc(r.Checks, func(c doctor.Result) bool { return c.Name == "api" })
	return slices.DeleteFunc(r.Findings, func(f doctor.Finding) bool { return f.Check != "api" }), r.Checks[i].State
}

// grant gives the account the permissions of deploy/base/rbac.yaml.
func grant(t *testing.T, cluster *kubetest.Cluster) {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash("../../deploy/base/rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(b), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			t.Fatal(err)
		}
		if role.Kind != "ClusterRole" {
			continue
		}
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: role.Name},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "team-a", Name: "multus"}},
		}
		rbac := cluster.Client().RbacV1()
		if _, err := rbac.ClusterRoles().Create(t.Context(), &role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := rbac.ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
