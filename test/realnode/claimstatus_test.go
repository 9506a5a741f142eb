package realnode

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/cli"
	"multus/internal/doctor"
	"multus/internal/testutil/eventually"
)

// probeTimeout is longer than the pause after which the daemon tries again what was forbidden.
const probeTimeout = 3 * time.Minute

// statuses checks the status of the claims while the pods run: nothing without the permission, which the doctor
// reports, and then the interfaces of the pods. A pod that ends takes its entries with it, also if the claim stays.
func (c *claims) statuses(t *testing.T) {
	t.Helper()
	w := c.workstation(t)
	for i := range claimings {
		if got := c.claimed(t, claimings[i].name); len(got) > 0 {
			t.Errorf("claims of pod %s have %q without the permission", claimings[i].name, got)
		}
	}
	var r doctor.Report
	w.decoded(t, cli.Found, &r, "", "doctor")
	const says = "the role does not allow: associated-node:patch resourceclaims/driver.resource.k8s.io " + driver
	if !slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool { return strings.HasPrefix(f.Message, says) }) {
		t.Errorf("findings %+v, want %q", r.Findings, says)
	}
	c.permit(t)
	eventually.NoError(t.Context(), t, probeTimeout, "the status of the claims", func() error {
		var errs []error
		for i := range claimings {
			errs = append(errs, c.right(t, &claimings[i]))
		}
		return errors.Join(errs...)
	})
	c.listed(t, w)
	c.partOfShared(t)
}

// permit adds the driver to the role.
func (c *claims) permit(t *testing.T) {
	t.Helper()
	roles := c.Client.RbacV1().ClusterRoles()
	role, err := roles.Get(t.Context(), "multus-claim-status", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range role.Rules {
		if len(role.Rules[i].ResourceNames) > 0 {
			role.Rules[i].ResourceNames = []string{driver}
		}
	}
	if _, err := roles.Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// claimed returns what the claims of a pod have in their status: interface, MAC address, addresses.
func (c *claims) claimed(t *testing.T, pod string) (out []string) {
	t.Helper()
	p, err := c.Client.CoreV1().Pods("default").Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, claim := range p.Spec.ResourceClaims {
		if claim.ResourceClaimName != nil {
			names = append(names, *claim.ResourceClaimName)
		}
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.ResourceClaimName != nil {
			names = append(names, *s.ResourceClaimName)
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		names = append(names, s.ResourceClaimName)
	}
	for _, name := range names {
		claim, err := c.Client.ResourceV1().ResourceClaims("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range claim.Status.Devices {
			if d.NetworkData == nil || len(d.Conditions) != 1 || d.Conditions[0].Type != "NetworkReady" {
				t.Errorf("claim %s: %+v", name, d)
				continue
			}
			ips := make([]string, len(d.NetworkData.IPs))
			for i, ip := range d.NetworkData.IPs {
				ips[i] = netip.MustParsePrefix(ip).Addr().String()
			}
			out = append(out, d.NetworkData.InterfaceName+" "+d.NetworkData.HardwareAddress+" "+strings.Join(ips, " "))
		}
	}
	slices.Sort(out)
	return out
}

// right returns an error while the claims of a pod do not have what its network status has. A pod with a device of all
// nodes has nothing: the role permits devices of one node only.
func (c *claims) right(t *testing.T, p *claiming) error {
	t.Helper()
	var want []string
	if p.err == "" && p.want != "" && p.want != "all" && p.name != "shared-1" {
		found, err := c.Client.CoreV1().Pods("default").Get(t.Context(), p.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status, err := networkStatus(found)
		if err != nil {
			return err
		}
		for _, s := range status[1:] {
			want = append(want, strings.Join(append([]string{s.Interface, s.Mac}, s.IPs...), " "))
		}
		slices.Sort(want)
	}
	got := c.claimed(t, p.name)
	if p.name == "shared-1" { // the network is that of shared-0
		got = nil
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("claims of pod %s: %q, want %q", p.name, got, want)
	}
	return nil
}

// listed checks that the devices of claims are listed on the node, with their networks.
func (c *claims) listed(t *testing.T, w *workstation) {
	t.Helper()
	var list struct {
		Claims []struct{ Pod, Claim, Device, Network, Interface, Problem string }
	}
	w.decoded(t, cli.OK, &list, "", "devices")
	rows := map[string]string{}
	for _, r := range list.Claims {
		rows[r.Pod] += strings.TrimRight(r.Device, "0123456789") + " " + r.Network + " " + r.Interface + " " + r.Problem + ";"
	}
	for pod, want := range map[string]string{
		"named-0":     "nic default/nic net1 ;",
		"gpu-alone":   "gpu the device has no attribute k8s.cni.cncf.io/resourceName;",
		"all-nodes-0": "all default/all net1 ;",
	} {
		if got := rows["default/"+pod]; strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
			t.Errorf("pod %s: %q, want %q", pod, got, want)
		}
	}
}

// partOfShared deletes one of two pods with the same claim. The claim stays allocated, and has no entry of it.
func (c *claims) partOfShared(t *testing.T) {
	t.Helper()
	c.remove(t, "shared-0")
	until(t, "the shared claim has no entry", func() error {
		claim, err := c.Client.ResourceV1().ResourceClaims("default").Get(t.Context(), "shared", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if claim.Status.Allocation == nil {
			t.Fatal("the claim is not allocated any more")
		}
		if len(claim.Status.Devices) > 0 {
			return fmt.Errorf("%+v", claim.Status.Devices)
		}
		return nil
	})
}
