package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/source/kube"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/kubetest"
)

const (
	nodeA, nodeB  = "node-a", "node-b"
	networkStatus = "k8s.v1.cni.cncf.io/network-status"
	policyTimeout = 20 * time.Second
)

// installed is an API server with deploy/base, and with a pod of the daemon and one of a workload on each of two nodes.
type installed struct {
	*kubetest.Cluster
	dynamic dynamic.Interface
}

func install(t *testing.T, dir string) *installed {
	t.Helper()
	return installManifest(t, render(t, dir))
}

func installManifest(t *testing.T, m manifest) *installed {
	t.Helper()
	c := kubetest.StartWith(t, kubetest.Options{RBAC: true})
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	i := &installed{Cluster: c, dynamic: client}
	for _, u := range m.objects {
		if err := apply(t, client, u, false); err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
	for _, node := range []string{nodeA, nodeB} {
		i.pod(t, "kube-system", "kube-multus-ds-"+node, node)
		i.pod(t, "default", "web-"+node, node)
	}
	return i
}

// pod creates a pod that runs on a node, with a status as the kubelet writes it.
func (i *installed) pod(t *testing.T, namespace, name, node string) {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app": "web"}, Finalizers: []string{"example.com/keep"},
			Annotations: map[string]string{"example.com/owner": "tenant", "k8s.v1.cni.cncf.io/networks": "a"},
		},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "multus",
			ReadinessGates: []corev1.PodReadinessGate{{ConditionType: publish.Gate}},
			Containers:     []corev1.Container{{Name: "app", Image: "registry.example/app:1"}},
		},
	}
	if _, err := i.Client().CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := `{"status":{"phase":"Running","podIP":"10.244.0.5","podIPs":[{"ip":"10.244.0.5"}],"startTime":"2026-01-01T00:00:00Z",` +
		`"conditions":[{"type":"Ready","status":"False","lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z"}],` +
		`"containerStatuses":[{"name":"app","ready":false,"restartCount":0,"image":"i","imageID":"i","state":{"waiting":{"reason":"x"}},"lastState":{}}]}}`
	if _, err := i.Client().CoreV1().Pods(namespace).Patch(t.Context(), name, types.StrategicMergePatchType,
		[]byte(status), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// token returns a token as the kubelet gets it for a daemon's pod. Without a node the token is not bound to a pod.
func (i *installed) token(t *testing.T, node string) string {
	t.Helper()
	req := &authv1.TokenRequest{}
	if node != "" {
		p, err := i.Client().CoreV1().Pods("kube-system").Get(t.Context(), "kube-multus-ds-"+node, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		req.Spec.BoundObjectRef = &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}
	}
	got, err := i.Client().CoreV1().ServiceAccounts("kube-system").CreateToken(t.Context(), "multus", req,
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Status.Token
}

func (i *installed) as(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(i.config(token))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (i *installed) config(token string) *rest.Config {
	c := i.RESTConfig()
	c.BearerToken = token
	return c
}

// inForce waits until the policies are in force, which is some time after they were written.
func (i *installed) inForce(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	dry := metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}
	create := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	// Wait for the role first: what it does not grant yet is refused as well.
	wait(t, "the role", func() error {
		_, err := client.CoreV1().Pods("default").Patch(t.Context(), "web-"+nodeA, types.MergePatchType, statusPatch("dry"),
			dry, "status")
		return err
	})
	wait(t, "the policies", func() error {
		_, status := client.CoreV1().Pods("default").Patch(t.Context(), "web-"+nodeA, types.MergePatchType,
			[]byte(`{"metadata":{"labels":{"app":"x"}}}`), dry, "status")
		_, event := client.CoreV1().Events("default").Create(t.Context(), forged(nil), create)
		if !isPolicy(status) || !isPolicy(event) {
			return fmt.Errorf("status: %v; event: %v", status, event) //nolint:errorlint // either may be nil
		}
		return nil
	})
}

func wait(t *testing.T, what string, try func() error) {
	t.Helper()
	eventually.NoError(t.Context(), t, policyTimeout, what, try)
}

func isPolicy(err error) bool {
	return (apierrors.IsForbidden(err) || apierrors.IsInvalid(err)) &&
		strings.Contains(err.Error(), "ValidatingAdmissionPolicy")
}

func statusPatch(value string) []byte {
	b, _ := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{networkStatus: value}}}) // it has no unsupported type
	return b
}

// forged returns an event from node-a that the policy allows, except for what change modifies.
func forged(change func(*corev1.Event)) *corev1.Event {
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "forged-", Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web-node-a"},
		Source:         corev1.EventSource{Component: "kubelet", Host: nodeA}, ReportingController: "kubelet",
		ReportingInstance: nodeA,
		Type:              "Normal", Reason: "AddedInterface", Message: "x",
	}
	if change != nil {
		e.Source.Component, e.ReportingController = "multus", "multus"
		change(e)
	}
	return e
}

// TestPolicyRefuses checks that with the token of a daemon's pod on node A nothing can be written except the network
// status of the pods of node A, and events of Multus from node A.
func TestPolicyRefuses(t *testing.T) {
	i := install(t, base)
	a := i.as(t, i.token(t, nodeA))
	i.inForce(t, a)

	for name, c := range map[string]struct{ pod, patch string }{
		"labels":                   {"web-node-a", `{"metadata":{"labels":{"app":"attacker"}}}`},
		"label removed":            {"web-node-a", `{"metadata":{"labels":{"app":null}}}`},
		"finalizers":               {"web-node-a", `{"metadata":{"finalizers":[]}}`},
		"finalizer added":          {"web-node-a", `{"metadata":{"finalizers":["example.com/keep","example.com/more"]}}`},
		"other annotation":         {"web-node-a", `{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/networks":"b"}}}`},
		"other annotation removed": {"web-node-a", `{"metadata":{"annotations":{"example.com/owner":null}}}`},
		"new annotation": {
			"web-node-a",
			`{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/network-statuses":"b"}}}`,
		},
		"all annotations": {"web-node-a", `{"metadata":{"annotations":null}}`},
		"generate name":   {"web-node-a", `{"metadata":{"generateName":"x-"}}`},
		"address and Ready": {
			"web-node-a",
			`{"status":{"podIP":"10.6.6.6","podIPs":[{"ip":"10.6.6.6"}],"conditions":[{"type":"Ready","status":"True"}]}}`,
		},
		"Ready":             {"web-node-a", `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`},
		"condition removed": {"web-node-a", `{"status":{"conditions":[]}}`},
		"condition of another's": {
			"web-node-a",
			`{"status":{"conditions":[{"type":"Ready","status":"False","lastTransitionTime":"2026-01-01T00:00:00Z"},{"type":"multus-cni.io/Other","status":"True"}]}}`,
		},
		"phase":        {"web-node-a", `{"status":{"phase":"Failed"}}`},
		"reason":       {"web-node-a", `{"status":{"reason":"Evicted"}}`},
		"host address": {"web-node-a", `{"status":{"hostIP":"10.6.6.6","hostIPs":[{"ip":"10.6.6.6"}]}}`},
		"containers": {
			"web-node-a",
			`{"status":{"containerStatuses":[{"name":"app","ready":true,"restartCount":0,"image":"i","imageID":"i"}]}}`,
		},
		"label beside the status": {
			"web-node-a",
			`{"metadata":{"labels":{"app":"attacker"},"annotations":{"` + networkStatus + `":"[]"}}}`,
		},
		"network status, other node": {"web-node-b", string(statusPatch("[]"))},
		"labels, other node":         {"web-node-b", `{"metadata":{"labels":{"app":"attacker"}}}`},
		"condition, other node": {
			"web-node-b",
			`{"status":{"conditions":[{"type":"Ready","status":"False","lastTransitionTime":"2026-01-01T00:00:00Z"},{"type":"multus-cni.io/NetworksAttached","status":"True"}]}}`,
		},
		"network status, other daemon": {"../kube-system/kube-multus-ds-node-b", string(statusPatch("[]"))},
	} {
		t.Run("patch/"+name, func(t *testing.T) {
			namespace, pod := "default", c.pod
			if rest, ok := strings.CutPrefix(pod, "../kube-system/"); ok {
				namespace, pod = "kube-system", rest
			}
			_, err := a.CoreV1().Pods(namespace).Patch(t.Context(), pod, types.MergePatchType, []byte(c.patch),
				metav1.PatchOptions{}, "status")
			if !isPolicy(err) {
				t.Errorf("answer: %v", err)
			}
		})
	}
	for name, change := range map[string]func(*corev1.Event){
		"from kubelet":       nil,
		"source kubelet":     func(e *corev1.Event) { e.Source.Component = "kubelet" },
		"controller kubelet": func(e *corev1.Event) { e.ReportingController = "kubelet" },
		"no controller":      func(e *corev1.Event) { e.ReportingController = "" },
		"reason":             func(e *corev1.Event) { e.Reason = "Killing" },
		"no reason":          func(e *corev1.Event) { e.Reason = "" },
		"instance of node b": func(e *corev1.Event) { e.ReportingInstance = nodeB },
		"host of node b":     func(e *corev1.Event) { e.Source.Host = nodeB },
		"no instance":        func(e *corev1.Event) { e.ReportingInstance = "" },
		"about a Secret":     func(e *corev1.Event) { e.InvolvedObject.Kind = "Secret" },
		"about the node b": func(
			e *corev1.Event,
		) {
			e.InvolvedObject = corev1.ObjectReference{Kind: "Node", Name: nodeB}
		},
		"about nothing, node b": func(e *corev1.Event) { e.InvolvedObject = corev1.ObjectReference{Name: nodeB} },
	} {
		t.Run("event/"+name, func(t *testing.T) {
			if _, err := a.CoreV1().Events("default").Create(t.Context(), forged(change),
				metav1.CreateOptions{}); !isPolicy(err) {
				t.Errorf("answer: %v", err)
			}
		})
	}
	t.Run("token without a node", func(t *testing.T) {
		unbound := i.as(t, i.token(t, ""))
		_, err := unbound.CoreV1().Pods("default").Patch(t.Context(), "web-"+nodeA, types.MergePatchType, statusPatch("[]"),
			metav1.PatchOptions{}, "status")
		if !isPolicy(err) {
			t.Errorf("answer: %v", err)
		}
	})
	t.Run("put", func(t *testing.T) { i.putRefused(t, a) })
	t.Run("others", func(t *testing.T) { i.othersWrite(t) })
	t.Run("doctor", func(t *testing.T) { i.doctorReads(t) }) // last, because it removes the policies
}

// update grants what today's role has in addition, and revokes PATCH.
func (i *installed) update(t *testing.T) {
	t.Helper()
	roles := i.Client().RbacV1().ClusterRoles()
	role, err := roles.Get(t.Context(), "multus", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range role.Rules {
		if slices.Equal(role.Rules[n].Resources, []string{"pods/status"}) {
			role.Rules[n].Verbs = []string{"update"}
		}
	}
	role.Rules = append(role.Rules,
		rbacv1.PolicyRule{
			APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"},
			Verbs: []string{"create", "patch", "update"},
		})
	if _, err := roles.Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// putRefused checks the same with GET and PUT, which today's role allows.
func (i *installed) putRefused(t *testing.T, a kubernetes.Interface) {
	t.Helper()
	i.update(t)
	pods := a.CoreV1().Pods("default")
	wait(t, "the role", func() error {
		p, err := pods.Get(t.Context(), "web-"+nodeA, metav1.GetOptions{})
		if err == nil {
			_, err = pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		}
		return err
	})
	for name, change := range map[string]func(*corev1.Pod){
		"labels":     func(p *corev1.Pod) { p.Labels["app"] = "attacker" },
		"finalizers": func(p *corev1.Pod) { p.Finalizers = nil },
		"phase":      func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
		"no status":  func(p *corev1.Pod) { p.Status = corev1.PodStatus{} },
		"annotation": func(p *corev1.Pod) { p.Annotations["example.com/owner"] = "x" },
	} {
		p, err := pods.Get(t.Context(), "web-"+nodeA, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(p)
		if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); !isPolicy(err) {
			t.Errorf("%s: answer: %v", name, err)
		}
	}
	p, err := pods.Get(t.Context(), "web-"+nodeB, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Annotations[networkStatus] = "[]"
	if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); !isPolicy(err) {
		t.Errorf("network status of the other node: answer: %v", err)
	}
	i.eventsChanged(t, a)
}

// eventsChanged checks that an event cannot be changed whatever the role grants, and that it cannot be created with the
// other events API.
func (i *installed) eventsChanged(t *testing.T, a kubernetes.Interface) {
	t.Helper()
	e := forged(nil)
	e.GenerateName, e.Name = "", "of-the-kubelet"
	if _, err := i.Client().CoreV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := a.CoreV1().Events("default").Patch(t.Context(), e.Name, types.MergePatchType, []byte(`{"message":"y"}`),
		metav1.PatchOptions{})
	if !isPolicy(err) {
		t.Errorf("event changed: %v", err)
	}
	_, err = a.EventsV1().Events("default").Patch(t.Context(), e.Name, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{})
	if !isPolicy(err) {
		t.Errorf("event changed by events.k8s.io: %v", err)
	}
}

// doctorReads checks that the role of Multus can read whether the policies are bound.
func (i *installed) doctorReads(t *testing.T) {
	t.Helper()
	client, err := kube.New(i.config(i.token(t, nodeA)))
	if err != nil {
		t.Fatal(err)
	}
	look := func(want kube.Policy) {
		for _, name := range kube.Policies() {
			p, err := client.Policy(t.Context(), name)
			if err != nil || p.Exists != want.Exists || p.Bound != want.Bound {
				t.Errorf("policy %s: %+v, %v, want %+v", name, p, err, want)
			} else if p.Exists && (!p.Selects("system:serviceaccount:kube-system:multus") ||
				p.Selects("system:serviceaccount:kube-system:multus2")) {
				t.Errorf("policy %s is about %q", name, p.Accounts)
			}
		}
	}
	registration := i.Client().AdmissionregistrationV1()
	look(kube.Policy{Exists: true, Bound: true})
	for _, name := range kube.Policies() {
		patch := []byte(`{"spec":{"validationActions":["Audit"]}}`)
		if _, err := registration.ValidatingAdmissionPolicyBindings().Patch(t.Context(), name, types.MergePatchType, patch,
			metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	look(kube.Policy{Exists: true})
	for _, name := range kube.Policies() {
		if err := registration.ValidatingAdmissionPolicies().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	look(kube.Policy{})
}

// othersWrite checks that the policies do not restrict other users.
func (i *installed) othersWrite(t *testing.T) {
	t.Helper()
	pods := i.Client().CoreV1().Pods("default")
	_, err := pods.Patch(t.Context(), "web-"+nodeA, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"x":"y"}},"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Errorf("administrator: %v", err)
	}
}

// TestPolicyAllows checks that the policies allow what the daemon and the thin plugin do: the network status by PATCH
// and by PUT, also of a pod that is being deleted, the pod condition of Multus, and each event.
func TestPolicyAllows(t *testing.T) {
	i := install(t, base)
	token := i.token(t, nodeA)
	a := i.as(t, token)
	i.inForce(t, a)
	// A kubeconfig that names the file of the token, as for the thin plugin.
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	byFile := i.config("")
	byFile.BearerTokenFile = file
	for name, config := range map[string]*kube.Config{"daemon": i.config(token), "thin": byFile} {
		t.Run(name, func(t *testing.T) {
			client, err := kube.New(config)
			if err != nil {
				t.Fatal(err)
			}
			i.daemonWrites(t, client)
		})
	}
	t.Run("condition", func(t *testing.T) {
		patch := `{"status":{"conditions":[{"type":"multus-cni.io/NetworksAttached","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
		_, err := a.CoreV1().Pods("default").Patch(t.Context(), "web-"+nodeA, types.StrategicMergePatchType, []byte(patch),
			metav1.PatchOptions{}, "status")
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("put", func(t *testing.T) {
		i.update(t)
		client, err := kube.New(i.config(token))
		if err != nil {
			t.Fatal(err)
		}
		wait(t, "GET and PUT", func() error {
			return client.SetStatus(t.Context(), request.Pod{Namespace: "default", Name: "web-" + nodeA}, networkStatus,
				"[1]", nil)
		})
		i.daemonWrites(t, client)
	})
}

// daemonWrites makes all writes of the daemon with its own client.
func (i *installed) daemonWrites(t *testing.T, client *kube.Client) {
	t.Helper()
	name := "going-" + strings.ToLower(strings.ReplaceAll(filepath.Base(t.Name()), "_", "-"))
	i.pod(t, "default", name, nodeA)
	grace := int64(600)
	if err := i.Client().CoreV1().Pods("default").Delete(t.Context(), name,
		metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	for _, pod := range []string{"web-" + nodeA, name} {
		p, err := i.Client().CoreV1().Pods("default").Get(t.Context(), pod, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		of := request.Pod{Namespace: "default", Name: pod, UID: string(p.UID)}
		value := `[{"name":"` + t.Name() + `"}]`
		if err := client.SetStatus(t.Context(), of, networkStatus, value, nil); err != nil {
			t.Errorf("%s: %v", pod, err)
		}
		if got, _ := i.Annotation(t, "default", pod, networkStatus); got != value {
			t.Errorf("%s: network status %q", pod, got)
		}
		if p, err = i.Client().CoreV1().Pods("default").Get(t.Context(), pod, metav1.GetOptions{}); err != nil ||
			!slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == publish.Gate }) {
			t.Errorf("%s: no condition of the readiness gate: %v", pod, err)
		}
		for _, reason := range reasons(t) {
			for _, seldom := range []bool{false, true} {
				e := publish.Event{Type: publish.Warning, Reason: reason, Message: t.Name(), ContainerID: "c1", Seldom: seldom}
				if err := client.Emit(t.Context(), of, e); err != nil {
					t.Errorf("event %s: %v", reason, err)
				}
			}
		}
	}
	for _, reason := range reasons(t) {
		if err := client.EmitNode(t.Context(), nodeA,
			publish.Event{Type: publish.Warning, Reason: reason, Message: t.Name()}); err != nil {
			t.Errorf("event %s of the node: %v", reason, err)
		}
	}
	if err := client.SetStatus(t.Context(), request.Pod{Namespace: "default", Name: "web-" + nodeB}, networkStatus,
		"[]", nil); !errors.Is(err, publish.ErrRefused) {
		t.Errorf("network status of the other node: %v", err)
	}
}

// TestPoliciesAreBound checks that every policy has a binding that denies, in every overlay.
func TestPoliciesAreBound(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		policies, bound := map[string]bool{}, map[string]bool{}
		for _, u := range render(t, dir).objects {
			switch u.GetKind() {
			case "ValidatingAdmissionPolicy":
				if fail, _, _ := unstructured.NestedString(u.Object, "spec", "failurePolicy"); fail != "Fail" {
					t.Errorf("%s: failurePolicy of %s: %q", dir, u.GetName(), fail)
				}
				policies[u.GetName()] = true
			case "ValidatingAdmissionPolicyBinding":
				name, _, _ := unstructured.NestedString(u.Object, "spec", "policyName")
				actions, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "validationActions")
				bound[name] = slices.Equal(actions, []string{"Deny"})
			}
		}
		if len(policies) != 2 {
			t.Errorf("%s: policies %v", dir, policies)
		}
		for name := range policies {
			if !bound[name] {
				t.Errorf("%s: no binding of %s denies", dir, name)
			}
		}
	}
}
