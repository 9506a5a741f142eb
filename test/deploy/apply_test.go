package deploy

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	leak.Main(m)
}

var resources = map[string]schema.GroupVersionResource{
	"ClusterRole":                {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
	"ClusterRoleBinding":         {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
	"ConfigMap":                  {Version: "v1", Resource: "configmaps"},
	"CustomResourceDefinition":   {Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
	"DaemonSet":                  {Group: "apps", Version: "v1", Resource: "daemonsets"},
	"PodMonitor":                 {Group: "monitoring.coreos.com", Version: "v1", Resource: "podmonitors"},
	"PrometheusRule":             {Group: "monitoring.coreos.com", Version: "v1", Resource: "prometheusrules"},
	"SecurityContextConstraints": {Group: "security.openshift.io", Version: "v1", Resource: "securitycontextconstraints"},
	"Secret":                     {Version: "v1", Resource: "secrets"},
	"ServiceAccount":             {Version: "v1", Resource: "serviceaccounts"},
	"Deployment":                 {Group: "apps", Version: "v1", Resource: "deployments"},
	"PodDisruptionBudget":        {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	"Role":                       {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
	"RoleBinding":                {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
	"Service":                    {Version: "v1", Resource: "services"},

	"ValidatingWebhookConfiguration": {
		Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations",
	},
	"MutatingWebhookConfiguration": {
		Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations",
	},

	"ValidatingAdmissionPolicy": {
		Group: "admissionregistration.k8s.io", Version: "v1",
		Resource: "validatingadmissionpolicies",
	},
	"ValidatingAdmissionPolicyBinding": {
		Group: "admissionregistration.k8s.io", Version: "v1",
		Resource: "validatingadmissionpolicybindings",
	},
}

// scc is a CRD in the place of OpenShift's type. The object is accepted, and its fields are not checked.
const scc = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
"metadata":{"name":"securitycontextconstraints.security.openshift.io"},
"spec":{"group":"security.openshift.io","scope":"Cluster",
"names":{"plural":"securitycontextconstraints","singular":"securitycontextconstraints","kind":"SecurityContextConstraints","listKind":"SecurityContextConstraintsList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

// apply sends an object as `kubectl apply --server-side --validate=strict` does. With dry nothing is stored.
func apply(t *testing.T, client dynamic.Interface, u *unstructured.Unstructured, dry bool) error {
	t.Helper()
	gvr, ok := resources[u.GetKind()]
	if !ok {
		return fmt.Errorf("a kind that this test does not support: %s", u.GetKind())
	}
	b, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	o := metav1.PatchOptions{FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dry {
		o.DryRun = []string{metav1.DryRunAll}
	}
	var to dynamic.ResourceInterface = client.Resource(gvr)
	if ns := u.GetNamespace(); ns != "" {
		to = client.Resource(gvr).Namespace(ns)
	}
	_, err = to.Patch(t.Context(), u.GetName(), types.ApplyPatchType, b, o)
	return err
}

// TestApply checks that a real API server accepts every manifest without unknown fields, over that of every other
// directory and over today's DaemonSet, and that the service account has exactly the required permissions.
func TestApply(t *testing.T) {
	c := kubetest.StartWith(t, kubetest.Options{RBAC: true})
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	stub := &unstructured.Unstructured{}
	if err := stub.UnmarshalJSON([]byte(scc)); err != nil {
		t.Fatal(err)
	}
	if err := apply(t, client, stub, false); err != nil {
		t.Fatal(err)
	}
	today(t, client)
	for _, u := range render(t, base).objects {
		if err := apply(t, client, u, false); err != nil {
			t.Errorf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
	for _, dir := range all(t) {
		t.Run(dir, func(t *testing.T) {
			for _, u := range render(t, dir).objects {
				if err := applyWhenServed(t, client, u); err != nil {
					t.Errorf("%s %s: %v", u.GetKind(), u.GetName(), err)
				}
			}
		})
	}
	t.Run("strict", func(t *testing.T) {
		u := slices.Clone(render(t, base).objects)[slices.IndexFunc(render(t, base).objects,
			func(u *unstructured.Unstructured) bool { return u.GetKind() == "DaemonSet" })]
		if err := unstructured.SetNestedField(u.Object, true, "spec", "template", "spec", "hostPid"); err != nil {
			t.Fatal(err)
		}
		if err := apply(t, client, u, true); err == nil {
			t.Error("a field that does not exist is accepted: this test shows nothing")
		}
	})
	t.Run("rights", func(t *testing.T) { rights(t, c) })
}

// applyWhenServed is like apply. It retries until a new kind is served.
func applyWhenServed(t *testing.T, client dynamic.Interface, u *unstructured.Unstructured) error {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := apply(t, client, u, true)
		missing := err != nil && (meta.IsNoMatchError(err) ||
			strings.Contains(err.Error(), "could not find the requested resource"))
		if !missing || time.Now().After(deadline) {
			return err
		}
	}
}

// today creates the DaemonSet that is replaced, as far as its immutable fields are concerned (behaviour J3, J4).
func today(t *testing.T, client dynamic.Interface) {
	t.Helper()
	const manifest = `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"kube-multus-ds","namespace":"kube-system",
"labels":{"tier":"node","app":"multus","name":"multus"}},
"spec":{"selector":{"matchLabels":{"name":"multus"}},"template":{"metadata":{"labels":{"tier":"node","app":"multus","name":"multus"}},
"spec":{"hostNetwork":true,"hostPID":true,"containers":[{"name":"kube-multus","image":"registry.example/multus:old","securityContext":{"privileged":true},
"volumeMounts":[{"name":"hostroot","mountPath":"/hostroot"}]}],
"initContainers":[{"name":"install-multus-binary","image":"registry.example/multus:old","command":["cp"]}],
"volumes":[{"name":"hostroot","hostPath":{"path":"/"}}]}}}}`
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(manifest)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Resource(resources["DaemonSet"]).Namespace("kube-system").Create(t.Context(), u,
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// rights checks the permissions of the service account with the API server.
func rights(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	const definitions, group, admission = "network-attachment-definitions", "k8s.cni.cncf.io",
		"admissionregistration.k8s.io"
	allowed := []authv1.ResourceAttributes{
		{Verb: "get", Group: group, Resource: definitions},
		{Verb: "list", Group: group, Resource: definitions},
		{Verb: "watch", Group: group, Resource: definitions},
		{Verb: "get", Resource: "pods"},
		{Verb: "patch", Resource: "pods", Subresource: "status"},
		{Verb: "create", Resource: "events"},
		{Verb: "get", Resource: "nodes"},
		{Verb: "get", Group: admission, Resource: "validatingadmissionpolicies", Name: "multus-events"},
		{Verb: "get", Group: admission, Resource: "validatingadmissionpolicybindings", Name: "multus-node-identity"},
	}
	denied := []authv1.ResourceAttributes{
		{Verb: "create", Group: group, Resource: definitions},
		{Verb: "update", Group: group, Resource: definitions},
		{Verb: "delete", Group: group, Resource: definitions},
		{Verb: "list", Resource: "pods"},
		{Verb: "watch", Resource: "pods"},
		{Verb: "update", Resource: "pods"},
		{Verb: "patch", Resource: "pods"},
		{Verb: "create", Resource: "pods"},
		{Verb: "update", Resource: "pods", Subresource: "status"},
		{Verb: "create", Resource: "pods", Subresource: "exec"},
		{Verb: "get", Resource: "secrets"},
		{Verb: "get", Resource: "configmaps"},
		{Verb: "list", Resource: "nodes"},
		{Verb: "watch", Resource: "nodes"},
		{Verb: "patch", Resource: "nodes"},
		{Verb: "delete", Resource: "events"},
		{Verb: "patch", Resource: "events"},
		{Verb: "update", Resource: "events"},
		{Verb: "get", Group: admission, Resource: "validatingadmissionpolicies"},
		{Verb: "delete", Group: admission, Resource: "validatingadmissionpolicies", Name: "multus-events"},
		{Verb: "update", Group: admission, Resource: "validatingadmissionpolicybindings", Name: "multus-events"},
		{Verb: "create", Resource: "serviceaccounts", Subresource: "token"},
		{Verb: "*", Group: "*", Resource: "*"},
	}
	may := func(a authv1.ResourceAttributes) bool {
		a.Namespace = "default"
		review := &authv1.SubjectAccessReview{Spec: authv1.SubjectAccessReviewSpec{
			ResourceAttributes: &a, User: "system:serviceaccount:kube-system:multus",
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"},
		}}
		got, err := c.Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return got.Status.Allowed
	}
	// The API server processes roles with a delay.
	for deadline := time.Now().Add(20 * time.Second); !may(allowed[0]) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	for _, a := range allowed {
		if !may(a) {
			t.Errorf("may not %s %s/%s", a.Verb, a.Resource, a.Subresource)
		}
	}
	for _, a := range denied {
		if may(a) {
			t.Errorf("may %s %s/%s", a.Verb, a.Resource, a.Subresource)
		}
	}
}

// TestOverlaysAreListed checks that every directory has a kustomization.yaml.
func TestOverlaysAreListed(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		if _, err := os.Stat(root + "/" + dir + "/kustomization.yaml"); err != nil {
			t.Error(err)
		}
	}
}
