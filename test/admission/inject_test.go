package admission

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"multus/internal/testutil/eventually"
)

// object decodes an object.
func object(tb testing.TB, text string) *unstructured.Unstructured {
	tb.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.UnmarshalStrict([]byte(text), &u.Object); err != nil {
		tb.Fatal(err)
	}
	return u
}

// injectedPod is a pod with a claim, without annotations.
const injectedPod = `{apiVersion: v1, kind: Pod, metadata: {namespace: default, name: %name},
	spec: {containers: [{name: app, image: "registry.example/app:1"}], resourceClaims: [{name: nic, resourceClaimTemplateName: nic}]}}`

// claimObjects are a DeviceClass that serves an extended resource, and a template of a claim for it.
var claimObjects = []string{
	`{apiVersion: resource.k8s.io/v1, kind: DeviceClass, metadata: {name: nic}, spec: {extendedResourceName: example.com/nic}}`,
	`{apiVersion: resource.k8s.io/v1, kind: ResourceClaimTemplate, metadata: {namespace: default, name: nic},
		spec: {spec: {devices: {requests: [{name: one, exactly: {deviceClassName: nic}}]}}}}`,
	`{apiVersion: v1, kind: ConfigMap, metadata: {namespace: kube-system, name: nri-control-switches}, data: {config.json:
		'{"user-defined-injections":{"fast":{"op":"add","path":"/metadata/annotations","value":{"team.example/x":"y"}}}}'}}`,
}

// TestInjection creates pods at a real API server that calls the webhook: they get the devices of their networks, once
// (behaviour T6, T13, T17, T20, T22). What the server reads, it may read with the role of the manifests.
func TestInjection(t *testing.T) {
	s := newSite(t)
	for _, text := range claimObjects {
		s.create(object(t, text))
	}
	nic := definition("default", "nic", good)
	nic.SetAnnotations(map[string]string{
		"k8s.v1.cni.cncf.io/resourceName": "example.com/nic", "k8s.v1.cni.cncf.io/nodeSelector": "rack=r1",
	})
	s.create(nic)
	r := s.start(`{}`, nil)
	eventually.True(t, "ready", func() bool { return get(t, "http://"+r.health+"/readyz") == "ok\n" })
	s.point(port(r.webhook))
	s.await()
	client, warned := s.warned()

	made, err := s.try(client, pod("default", "two", map[string]any{networksKey: "nic,nic"}))
	if err != nil {
		t.Fatal(err)
	}
	containers, _, err := unstructured.NestedSlice(made.Object, "spec", "containers")
	if err != nil || len(containers) != 1 {
		t.Fatalf("%v, %v", containers, err)
	}
	app := containers[0].(map[string]any)
	for _, kind := range []string{"requests", "limits"} {
		if n, _, _ := unstructured.NestedString(app, "resources", kind, "example.com/nic"); n != "2" {
			t.Errorf("%s of %v", kind, app["resources"])
		}
	}
	if rack, _, _ := unstructured.NestedString(made.Object, "spec", "nodeSelector", "rack"); rack != "r1" {
		t.Errorf("spec %v", made.Object["spec"])
	}
	warned.take()

	claimed := object(t, strings.ReplaceAll(injectedPod, "%name", "claimed"))
	claimed.SetAnnotations(map[string]string{networksKey: "nic"})
	made, err = s.try(client, claimed)
	if text := warned.take(); err != nil || !strings.Contains(text, "example.com/nic") {
		t.Errorf("%v, warnings %s", err, text)
	}
	if b, _ := yaml.Marshal(made.Object["spec"]); strings.Contains(string(b), "example.com/nic") {
		t.Errorf("the device is requested beside the claim:\n%s", b)
	}

	eventually.True(t, "the ConfigMap is read", func() bool {
		labelled := pod("default", "labelled", map[string]any{networksKey: "nic"})
		labelled.SetLabels(map[string]string{"fast": "true"})
		labelled.SetName("")
		labelled.SetGenerateName("labelled-")
		made, err := s.try(client, labelled)
		return err == nil && made.GetAnnotations()["team.example/x"] == "y"
	})

	// Nothing is injected into a pod that opts out. It could never start, so it is refused with the reason.
	_, err = s.try(client, pod("default", "out", map[string]any{networksKey: "nic", "v1.multus-cni.io/inject": "false"}))
	if err == nil || !strings.Contains(err.Error(), "the containers request 0 [device]") {
		t.Errorf("a pod that opts out, and has no device: %v", err)
	}
}

// TestInjectionOff checks that nothing is injected without injection.
func TestInjectionOff(t *testing.T) {
	s := newSite(t)
	nic := definition("default", "nic", good)
	nic.SetAnnotations(map[string]string{"k8s.v1.cni.cncf.io/resourceName": "example.com/nic"})
	s.create(nic)
	r := s.start(`{"admission": {"injection": {"enabled": false}, "rules": {"device": "warn"}}}`, nil)
	eventually.True(t, "ready", func() bool { return get(t, "http://"+r.health+"/readyz") == "ok\n" })
	s.point(port(r.webhook))
	s.await()
	client, _ := s.warned()
	made, err := s.try(client, pod("default", "plain", map[string]any{networksKey: "nic"}))
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := yaml.Marshal(made.Object["spec"]); strings.Contains(string(b), "example.com/nic") {
		t.Errorf("injected:\n%s", b)
	}
}
