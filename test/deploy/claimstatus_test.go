package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/device"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/source/kube"
)

// sriov is the driver of the component claim-status.
const sriov = "sriovnetwork.k8snetworkplumbingwg.io"

// TestClaimStatusComponent checks, in every directory with a daemon, that claim-status sets two keys of the daemon's
// file and adds one role, also beside hotplug and isolation.
func TestClaimStatusComponent(t *testing.T) {
	t.Parallel()
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceclaims/status"}, Verbs: []string{"patch"}},
		{
			APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceclaims/driver"},
			ResourceNames: []string{sriov}, Verbs: []string{"associated-node:patch"},
		},
	}
	for _, dir := range all(t) {
		if !fits("claim-status", dir) {
			continue
		}
		for _, others := range [][]string{nil, {"hotplug"}, {"isolation", "hotplug"}} {
			if dir == "overlays/openshift" && len(others) > 1 {
				continue // it has isolation already
			}
			for _, components := range [][]string{append([]string{"claim-status"}, others...), append(others, "claim-status")} {
				before, m := with(t, dir, others...), with(t, dir, components...)
				want, got := parseConfig(t, daemonConfig(t, before)), parseConfig(t, daemonConfig(t, m))
				want.ClaimStatus, want.ClaimStatusDrivers, want.Raw, got.Raw = true, []string{sriov}, nil, nil
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s, %v: daemon's file (-want +got):\n%s", dir, components, d)
				}
				if d := cmp.Diff(get[appsv1.DaemonSet](t, before, "DaemonSet"), get[appsv1.DaemonSet](t, m, "DaemonSet")); d != "" {
					t.Errorf("%s: DaemonSet (-want +got):\n%s", dir, d)
				}
				if role := addedRoles(t, m)["multus-claim-status"]; role == nil || !cmp.Equal(role.Rules, rules) {
					t.Errorf("%s: role %+v", dir, role)
				}
			}
		}
	}
}

// claimed is a ResourceClaim with allocated devices.
type claimed struct {
	*installed
	name string
	uid  types.UID
}

// on returns the node selector of devices of one node.
func on(node string) *corev1.NodeSelector {
	return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{
			Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}},
	}}}
}

// claim creates a ResourceClaim with the devices vf0 and vf1 of a driver, which pods of the UIDs use.
func (i *installed) claim(t *testing.T, name, driver string, where *corev1.NodeSelector, uids ...string) *claimed {
	t.Helper()
	claims := i.Client().ResourceV1().ResourceClaims("default")
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{
		Name: "nic", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "nic", Count: 2},
	}}
	c, err := claims.Create(t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: where}
	for _, vf := range []string{"vf0", "vf1"} {
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results,
			resourcev1.DeviceRequestAllocationResult{Request: "nic", Driver: driver, Pool: "pool", Device: vf})
	}
	for _, uid := range uids {
		c.Status.ReservedFor = append(c.Status.ReservedFor,
			resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "pod-" + uid, UID: types.UID(uid)})
	}
	if c, err = claims.UpdateStatus(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return &claimed{i, name, c.UID}
}

// status returns what a pod writes about devices of the claim.
func (c *claimed) status(driver, pod, ip string, devices ...string) *publish.ClaimStatus {
	s := &publish.ClaimStatus{
		ClaimRef: publish.ClaimRef{Namespace: "default", Name: c.name, UID: string(c.uid)},
		Pod:      request.Pod{Namespace: "default", Name: "pod-" + pod, UID: pod}, Since: time.Now().UnixNano(),
	}
	for _, name := range devices {
		s.Devices = append(s.Devices, publish.ClaimedDevice{
			Claim:   device.Claim{Namespace: "default", Name: c.name, Driver: driver, Pool: "pool", Device: name},
			Network: "default/fast", Interface: "net1", MAC: "02:00:00:00:00:01", Addresses: []string{ip},
		})
	}
	return s
}

// devices returns status.devices in short: the device, its address, and its conditions.
func (c *claimed) devices(t *testing.T) (out []string) {
	t.Helper()
	found, err := c.Client().ResourceV1().ResourceClaims("default").Get(t.Context(), c.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range found.Status.Devices {
		text := d.Device
		if n := d.NetworkData; n != nil {
			text += fmt.Sprintf(" %s %s %s", n.InterfaceName, n.HardwareAddress, strings.Join(n.IPs, ","))
		}
		for _, condition := range d.Conditions {
			text += " " + condition.Type + "=" + string(condition.Status)
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

func (c *claimed) want(t *testing.T, what string, want ...string) {
	t.Helper()
	if got := c.devices(t); !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// TestClaimStatus checks, with a real API server and the token of a daemon's pod, what the permissions of the component
// claim-status allow, that pods and other programs that write the status of one claim do not disturb each other, and
// that nothing of a pod is left (behaviour H16-H18).
func TestClaimStatus(t *testing.T) {
	i := installManifest(t, with(t, base, "claim-status"))
	client, err := kube.New(i.config(i.token(t, nodeA)))
	if err != nil {
		t.Fatal(err)
	}
	write := func(s *publish.ClaimStatus) error { return client.WriteClaim(t.Context(), s) }
	const entry = " net1 02:00:00:00:00:01 192.0.2.5/24 NetworkReady=True"
	first := i.claim(t, "first", sriov, on(nodeA), "uid-1", "uid-2")
	wait(t, "the role", func() error { return write(first.status(sriov, "uid-1", "192.0.2.5/24", "vf0")) })
	first.want(t, "after ADD", "vf0"+entry)

	t.Run("permissions", func(t *testing.T) {
		for name, tc := range map[string]struct {
			driver string
			where  *corev1.NodeSelector
			want   error
			text   string
		}{
			"driver that is not listed": {"other.example.com", on(nodeA), publish.ErrForbidden, `lacks verb "associated-node:patch"`},
			"devices of another node":   {sriov, on(nodeB), publish.ErrForbidden, `lacks verb "arbitrary-node:patch"`},
			"devices of all nodes":      {sriov, nil, publish.ErrForbidden, `lacks verb "arbitrary-node:patch"`},
			"devices of the node":       {sriov, on(nodeA), nil, ""},
		} {
			c := i.claim(t, strings.ReplaceAll(name, " ", "-"), tc.driver, tc.where, "uid-1")
			err := write(c.status(tc.driver, "uid-1", "192.0.2.5/24", "vf0"))
			if !errors.Is(err, tc.want) || tc.want != nil && !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s: %v", name, err)
			}
		}
		allocation := []byte(`{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim","status":{"reservedFor":[]}}`)
		_, err := i.as(t, i.token(t, nodeA)).ResourceV1().ResourceClaims("default").Patch(t.Context(), "first",
			types.MergePatchType, allocation, metav1.PatchOptions{}, "status")
		if err == nil || !strings.Contains(err.Error(), "resourceclaims/binding") {
			t.Errorf("reservedFor is changed: %v", err)
		}
	})
	t.Run("another pod", func(t *testing.T) {
		if err := write(first.status(sriov, "uid-2", "192.0.2.6/24", "vf1")); err != nil {
			t.Fatal(err)
		}
		second := " net1 02:00:00:00:00:01 192.0.2.6/24 NetworkReady=True"
		first.want(t, "two pods", "vf0"+entry, "vf1"+second)
		err := write(first.status(sriov, "uid-2", "192.0.2.6/24", "vf0", "vf1"))
		if !errors.Is(err, publish.ErrTaken) {
			t.Errorf("the device of another pod is taken over: %v", err)
		}
		first.want(t, "after the conflict", "vf0"+entry, "vf1"+second)
		for range 2 { // a DEL may be repeated
			if err := write(first.status(sriov, "uid-1", "")); err != nil {
				t.Fatal(err)
			}
			first.want(t, "after the DEL of the first", "vf1"+second)
		}
		if err := write(first.status(sriov, "uid-2", "192.0.2.6/24", "vf0", "vf1")); err != nil {
			t.Errorf("after the DEL of the first: %v", err)
		}
		first.want(t, "the device is free", "vf0"+second, "vf1"+second)
		if err := write(first.status(sriov, "uid-2", "")); err != nil {
			t.Fatal(err)
		}
		first.want(t, "after the DEL of both")
	})
	t.Run("another program", func(t *testing.T) { testOtherWriter(t, i, client) })
	t.Run("stale", func(t *testing.T) {
		// The node of uid-3 was lost with what its daemon had stored, and the pod is gone.
		c := i.claim(t, "stale", sriov, on(nodeA), "uid-4")
		if err := write(c.status(sriov, "uid-3", "192.0.2.5/24", "vf0", "vf1")); err != nil {
			t.Fatal(err)
		}
		if err := write(c.status(sriov, "uid-4", "192.0.2.5/24", "vf0")); err != nil {
			t.Fatal(err)
		}
		c.want(t, "the entries of a pod that is gone", "vf0"+entry)
	})
	t.Run("gone", func(t *testing.T) {
		c := i.claim(t, "replaced", sriov, on(nodeA), "uid-1")
		s := c.status(sriov, "uid-1", "192.0.2.5/24", "vf0")
		s.UID = "0c0ffee0-0000-4000-8000-000000000000"
		if err := write(s); !errors.Is(err, publish.ErrGone) {
			t.Errorf("a claim with another UID: %v", err)
		}
		c.want(t, "a claim with another UID")
		s.Name = "none"
		if err := write(s); !errors.Is(err, publish.ErrGone) {
			t.Errorf("no such claim: %v", err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		c := i.claim(t, "refused", sriov, on(nodeA), "uid-1")
		if err := write(c.status(sriov, "uid-1", "192.0.2.5/24", "vf7")); !errors.Is(err, publish.ErrRefused) {
			t.Errorf("a device that is not allocated: %v", err)
		}
	})
}

// testOtherWriter checks that the entries of the driver stay as they are.
func testOtherWriter(t *testing.T, i *installed, client *kube.Client) {
	c := i.claim(t, "driver", sriov, on(nodeA), "uid-1")
	body, err := json.Marshal(map[string]any{
		"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": map[string]string{"name": c.name},
		"status": map[string]any{"devices": []any{
			map[string]any{"driver": sriov, "pool": "pool", "device": "vf0", "conditions": []any{map[string]string{
				"type": "Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
			}}},
			map[string]any{
				"driver": sriov, "pool": "pool", "device": "vf1", "networkData": map[string]string{"interfaceName": "own"},
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Client().ResourceV1().ResourceClaims("default").Patch(t.Context(), c.name, types.ApplyYAMLPatchType,
		body, metav1.PatchOptions{FieldManager: "driver"}, "status"); err != nil {
		t.Fatal(err)
	}
	before := c.devices(t)
	if err := client.WriteClaim(t.Context(), c.status(sriov, "uid-1", "192.0.2.5/24", "vf0")); err != nil {
		t.Error(err)
	}
	c.want(t, "beside the driver", "vf0 net1 02:00:00:00:00:01 192.0.2.5/24 Ready=True NetworkReady=True", before[1])
	err = client.WriteClaim(t.Context(), c.status(sriov, "uid-1", "192.0.2.5/24", "vf1"))
	if !errors.Is(err, publish.ErrTaken) {
		t.Errorf("what the driver has written is taken over: %v", err)
	}
	if err := client.WriteClaim(t.Context(), c.status(sriov, "uid-1", "")); err != nil {
		t.Error(err)
	}
	c.want(t, "after DEL", before...)
}
