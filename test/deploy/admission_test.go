package deploy

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"multus/internal/host/admission"
)

// named returns the object of a kind with a name as its type. It rejects unknown keys.
func named[T any](tb testing.TB, m manifest, kind, name string) *T {
	tb.Helper()
	for _, u := range m.objects {
		if u.GetKind() == kind && u.GetName() == name {
			found := new(T)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, found, true); err != nil {
				tb.Fatal(err)
			}
			return found
		}
	}
	tb.Fatalf("no %s %s", kind, name)
	return nil
}

// webhookViolations returns everything that the pods of the webhook must not have.
func webhookViolations(d *appsv1.Deployment) []string {
	var v []string
	bad := func(is bool, format string, args ...any) {
		if is {
			v = append(v, fmt.Sprintf(format, args...))
		}
	}
	pod := d.Spec.Template.Spec
	bad(pod.HostNetwork || pod.HostPID || pod.HostIPC, "a namespace of the node")
	bad(pod.ServiceAccountName != admission.Name, "serviceAccountName %q", pod.ServiceAccountName)
	bad(len(pod.InitContainers)+len(pod.EphemeralContainers) > 0 || len(pod.Containers) != 1, "more than one container")
	bad(len(pod.Tolerations) != 0, "tolerations")
	bad(len(pod.TopologySpreadConstraints) != 1, "no spread over nodes")
	bad(d.Spec.Replicas == nil || *d.Spec.Replicas != 2, "not two replicas")
	for i := range pod.Volumes {
		vol := pod.Volumes[i]
		bad(vol.ConfigMap == nil && vol.Secret == nil, "volume %s is neither a ConfigMap nor a Secret", vol.Name)
	}
	sc := pod.SecurityContext
	bad(sc == nil || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot || sc.RunAsUser == nil || *sc.RunAsUser == 0,
		"runs as root")
	for i := range pod.Containers {
		c := pod.Containers[i]
		// Other rules than those of the DaemonSet: it is no root, and has ports in the cluster's network.
		root := int64(0)
		bad(c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil, "runAsUser of the container")
		bad(c.LivenessProbe == nil || c.ReadinessProbe == nil, "no probes")
		c.Ports = nil
		if c.SecurityContext != nil {
			c.SecurityContext = c.SecurityContext.DeepCopy()
			c.SecurityContext.RunAsUser = &root
		}
		v = append(v, ofContainer(&c, sc)...)
		for _, m := range c.VolumeMounts {
			bad(!m.ReadOnly, "mount %s can be written", m.Name)
		}
	}
	return v
}

// TestAdmissionSecurity checks that the pods of the webhook have no privilege, with each way to get a certificate, and
// that violations are found. (behaviour S28.)
func TestAdmissionSecurity(t *testing.T) {
	t.Parallel()
	for _, components := range [][]string{{"admission"}, {"admission", "admission-cert-manager"}} {
		for _, dir := range []string{base, thin, "overlays/openshift"} {
			m := with(t, dir, components...)
			checkUnprivileged(t, m)
			for _, v := range webhookViolations(named[appsv1.Deployment](t, m, "Deployment", admission.Name)) {
				t.Errorf("%s %s: %s", dir, components, v)
			}
		}
	}
	yes, no := true, false
	for name, breakIt := range map[string]func(*appsv1.Deployment, *corev1.PodSpec, *corev1.Container){
		"hostNetwork": func(_ *appsv1.Deployment, p *corev1.PodSpec, _ *corev1.Container) { p.HostNetwork = true },
		"root": func(_ *appsv1.Deployment, p *corev1.PodSpec, _ *corev1.Container) {
			p.SecurityContext.RunAsNonRoot = &no
		},
		"privileged": func(_ *appsv1.Deployment, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.Privileged = &yes
		},
		"writable": func(_ *appsv1.Deployment, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.ReadOnlyRootFilesystem = &no
		},
		"capability": func(_ *appsv1.Deployment, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.Capabilities.Drop = nil
		},
		"account": func(_ *appsv1.Deployment, p *corev1.PodSpec, _ *corev1.Container) { p.ServiceAccountName = "multus" },
		"hostPath": func(_ *appsv1.Deployment, p *corev1.PodSpec, _ *corev1.Container) {
			source := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}
			p.Volumes = append(p.Volumes, corev1.Volume{VolumeSource: source})
		},
		"one replica": func(d *appsv1.Deployment, _ *corev1.PodSpec, _ *corev1.Container) { d.Spec.Replicas = nil },
		"no probe":    func(_ *appsv1.Deployment, _ *corev1.PodSpec, c *corev1.Container) { c.ReadinessProbe = nil },
	} {
		d := named[appsv1.Deployment](t, with(t, base, "admission"), "Deployment", admission.Name)
		breakIt(d, &d.Spec.Template.Spec, &d.Spec.Template.Spec.Containers[0])
		if len(webhookViolations(d)) == 0 {
			t.Errorf("%s is not reported", name)
		}
	}
}

// TestAdmissionWebhooks checks that the API server goes on without the webhook, that nothing of kube-system reaches it,
// and that the command line, the names and the ports of the manifests fit together. (behaviour S20, S21.)
func TestAdmissionWebhooks(t *testing.T) {
	t.Parallel()
	m := with(t, base, "admission")
	validating := named[admissionv1.ValidatingWebhookConfiguration](t, m, "ValidatingWebhookConfiguration", admission.Name)
	mutating := named[admissionv1.MutatingWebhookConfiguration](t, m, "MutatingWebhookConfiguration", admission.Name)
	hooks := slices.Clone(validating.Webhooks)
	for _, h := range mutating.Webhooks {
		hooks = append(hooks, admissionv1.ValidatingWebhook{
			Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, FailurePolicy: h.FailurePolicy,
			NamespaceSelector: h.NamespaceSelector, SideEffects: h.SideEffects, TimeoutSeconds: h.TimeoutSeconds,
			AdmissionReviewVersions: h.AdmissionReviewVersions, MatchConditions: h.MatchConditions,
		})
	}
	for _, h := range hooks {
		if *h.FailurePolicy != admissionv1.Ignore || *h.TimeoutSeconds != 3 ||
			*h.SideEffects != admissionv1.SideEffectClassNone || len(h.MatchConditions) == 0 ||
			len(h.ClientConfig.CABundle) > 0 {
			t.Errorf("%s: %+v", h.Name, h)
		}
		if e := h.NamespaceSelector.MatchExpressions; len(e) != 1 || e[0].Key != corev1.LabelMetadataName ||
			e[0].Operator != "NotIn" || !slices.Equal(e[0].Values, []string{"kube-system"}) {
			t.Errorf("%s: namespaces %+v", h.Name, e)
		}
		s := h.ClientConfig.Service
		if s == nil || s.Name != admission.Name || s.Namespace != "kube-system" ||
			*s.Path != admission.PathValidate && *s.Path != admission.PathMutate {
			t.Errorf("%s: %+v", h.Name, s)
		}
	}
	d := named[appsv1.Deployment](t, m, "Deployment", admission.Name)
	c := d.Spec.Template.Spec.Containers[0]
	cmd := admission.Command(func(string) string { return "" }, "")
	cmd.SetOut(io.Discard)
	if err := cmd.ParseFlags(c.Args[1:]); err != nil || c.Args[0] != cmd.Name() {
		t.Errorf("%q: %v", c.Args, err)
	}
	for _, p := range c.Ports {
		flag := map[string]string{"webhook": "listen", "health": "health"}[p.Name]
		if got := cmd.Flags().Lookup(flag).Value.String(); got != fmt.Sprintf(":%d", p.ContainerPort) {
			t.Errorf("port %s is %d, the program listens at %s", p.Name, p.ContainerPort, got)
		}
	}
	service := named[corev1.Service](t, m, "Service", admission.Name)
	budget := named[policyv1.PodDisruptionBudget](t, m, "PodDisruptionBudget", admission.Name)
	labels := d.Spec.Template.Labels["app"]
	if service.Spec.Selector["app"] != labels || budget.Spec.Selector.MatchLabels["app"] != labels ||
		service.Spec.Ports[0].TargetPort.StrVal != c.Ports[0].Name {
		t.Errorf("%+v, %+v", service.Spec, budget.Spec)
	}
	if secret := named[corev1.Secret](t, m, "Secret", admission.Secret); len(secret.Data)+len(secret.StringData) > 0 {
		t.Error("the secret has data, which would replace that of the webhook")
	}
}

// TestAdmissionWithCertManager checks that cert-manager maintains what the webhook maintains otherwise, and that the
// webhook then may neither read secrets nor write webhook configurations. (behaviour S26.)
func TestAdmissionWithCertManager(t *testing.T) {
	t.Parallel()
	m := with(t, base, "admission", "admission-cert-manager")
	text := string(m.text)
	if n := strings.Count(text, "cert-manager.io/inject-ca-from: kube-system/multus-admission"); n != 2 {
		t.Errorf("%d webhook configurations are injected", n)
	}
	for _, u := range m.objects {
		if u.GetKind() == "Secret" || u.GetKind() == "Role" && u.GetName() == admission.Name {
			t.Errorf("%s %s is left", u.GetKind(), u.GetName())
		}
		if u.GetKind() == "ClusterRole" && u.GetName() == admission.Name {
			b, err := u.MarshalJSON()
			if err != nil || strings.Contains(string(b), "webhookconfigurations") {
				t.Errorf("%v %s", err, b)
			}
		}
	}
	pod := named[appsv1.Deployment](t, m, "Deployment", admission.Name).Spec.Template.Spec
	if !slices.Contains(pod.Containers[0].Args, "--cert-manager") || pod.Volumes[len(pod.Volumes)-1].Secret == nil &&
		pod.Volumes[0].Secret == nil {
		t.Errorf("%q %+v", pod.Containers[0].Args, pod.Volumes)
	}
}
