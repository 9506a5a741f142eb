package plan_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
)

// claims has the devices of a pod: those of device plugins, and those of claims as the kubelet and as the API server
// list them. A device without ID has no attributes.
type claims struct {
	plugins     []string
	kubelet     []plan.ClaimedDevice
	api         []plan.ClaimedDevice
	apiError    error
	described   int // calls
	claimsCalls int
}

// Devices implements plan.Devices.
func (c *claims) Devices(context.Context, plan.Ref, string) (*plan.Allocation, error) {
	ids := map[string][]string{}
	if len(c.plugins) > 0 {
		ids["example.com/nic"] = c.plugins
	}
	return &plan.Allocation{IDs: ids, Claimed: c.kubelet}, nil
}

// Describe implements plan.Claims.
func (c *claims) Describe(_ context.Context, claimed []plan.ClaimedDevice) error {
	c.described++
	describe(claimed)
	return nil
}

// Claims implements plan.Claims.
func (c *claims) Claims(context.Context, plan.Ref, string) ([]plan.ClaimedDevice, error) {
	c.claimsCalls++
	describe(c.api)
	return c.api, c.apiError
}

func describe(claimed []plan.ClaimedDevice) {
	for i := range claimed {
		if d := &claimed[i]; strings.HasPrefix(d.Device, "vf") {
			d.Resource, d.ID = "example.com/nic", d.Device
		} else if strings.HasPrefix(d.Device, "raw") {
			d.ID, d.Problem = d.Device, "no resource name"
		} else if d.Problem == "" {
			d.Problem = "no attributes"
		}
	}
}

// Network implements plan.Networks.
func (c *claims) Network(_ context.Context, ref plan.Ref) (*plan.Definition, error) {
	return &plan.Definition{
		Ref: ref, ResourceName: "example.com/nic", Config: `{"cniVersion":"1.0.0","type":"host-device"}`,
	}, nil
}

func claimed(names ...string) (out []plan.ClaimedDevice) {
	for i, name := range names {
		out = append(out, plan.ClaimedDevice{Claim: fmt.Sprint("c", i), Driver: "d", Pool: "p", Device: name})
	}
	return out
}

// TestClaimedDevices checks which devices the networks of a pod with ResourceClaims get, and that nothing is looked up
// that is not needed (behaviour H10-H13).
func TestClaimedDevices(t *testing.T) {
	t.Parallel()
	gpu, none := claimed("gpu"), []plan.ClaimedDevice{{Claim: "c", Problem: "no device is allocated"}}
	for name, tc := range map[string]struct {
		has      claims
		networks int
		want     string // the devices, or words of the error
		// described and read are the calls of Describe and Claims.
		described, read int
	}{
		"of a claim":                     {claims{kubelet: claimed("vf0")}, 1, "vf0", 1, 0},
		"two of a claim, sorted":         {claims{kubelet: claimed("vf1", "vf0")}, 2, "vf0 vf1", 1, 0},
		"of device plugins only":         {claims{plugins: []string{"z"}, kubelet: claimed("vf0")}, 1, "z", 0, 0},
		"of device plugins first":        {claims{plugins: []string{"z"}, kubelet: claimed("vf0")}, 2, "z vf0", 1, 0},
		"a GPU beside":                   {claims{kubelet: claimed("gpu", "vf0")}, 1, "vf0", 1, 0},
		"shared by two claims":           {claims{kubelet: claimed("vf0", "vf0")}, 2, "error: no device", 1, 1},
		"the kubelet lists no claims":    {claims{api: claimed("vf0")}, 1, "vf0", 0, 1},
		"none at all":                    {claims{}, 1, "error: the kubelet gave the pod 0", 0, 1},
		"only a GPU":                     {claims{kubelet: gpu}, 1, "error: claim c0, device d/p/gpu: no attributes", 1, 1},
		"claim without results":          {claims{api: none}, 1, "error: claim c: no device is allocated", 0, 1},
		"claims that cannot be read":     {claims{apiError: errors.New("denied")}, 1, "error: of the pod: denied", 0, 1},
		"claims that cannot be read now": {claims{apiError: plan.ErrUnavailable}, 1, "error: source unavailable", 0, 1},
		"too few, and the API has no more": {
			claims{kubelet: claimed("vf0"), api: claimed("vf0")}, 2, "error: claim c0, device d/p/vf0: example.com/nic", 1, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := planDevices(t, &tc.has, strings.TrimSuffix(strings.Repeat("nic,", tc.networks), ","))
			if !matches(got, tc.want) {
				t.Errorf("%s, want %s", got, tc.want)
			}
			if tc.has.described != tc.described || tc.has.claimsCalls != tc.read {
				t.Errorf("described %d times, read %d times, want %d and %d", tc.has.described, tc.has.claimsCalls,
					tc.described, tc.read)
			}
		})
	}
}

// matches reports whether devices are those that are wanted, or an error has the words after "error: ".
func matches(got, want string) bool {
	words, isError := strings.CutPrefix(want, "error: ")
	return got == want || isError && strings.Contains(got, words)
}

// planDevices returns the devices that the networks of an annotation get, or the error.
func planDevices(t *testing.T, has *claims, annotation string) string {
	t.Helper()
	p, err := planClaims(t, has, annotation)
	if err != nil {
		return err.Error()
	}
	var devices []string
	for i := range p.Attachments[1:] {
		devices = append(devices, p.Attachments[1+i].Device)
	}
	return strings.Join(devices, " ")
}

// planClaims returns the plan of a pod with an annotation.
func planClaims(t *testing.T, has *claims, annotation string) (*plan.Plan, error) {
	t.Helper()
	value, err := json.Marshal(map[string]any{
		"delegates": []any{map[string]string{"cniVersion": "1.0.0", "name": "c", "type": "c"}},
		"runtimeConfig": map[string]any{
			config.PodAnnotations: map[string]string{"k8s.v1.cni.cncf.io/networks": annotation},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := config.ParsePlugin(value)
	if err != nil {
		t.Fatal(err)
	}
	r := &plan.Resolver{Networks: has, Devices: has, Log: slog.New(slog.DiscardHandler)}
	return r.Plan(t.Context(), &request.Request{
		Command: request.Add, ContainerID: "c1", Netns: "/run/netns/x", IfName: "eth0",
		Args: request.Args{{request.PodNamespace, "n"}, {request.PodName, "p"}, {request.PodUID, "u"}},
	}, conf)
}

// TestClaimOfDevice checks that an attachment has the claim of its device, whichever way the device was found, and that
// one with a device of a device plugin has none (behaviour H15).
func TestClaimOfDevice(t *testing.T) {
	t.Parallel()
	first := plan.ClaimedDevice{
		Claim: "web-nic", PodClaim: "nic", Request: "r", UID: "uid-1", Driver: "d", Pool: "p", Device: "vf0", ShareID: "s",
	}
	second := first
	second.Claim, second.UID = "other", "uid-2"
	want := &device.Claim{
		Namespace: "n", Name: "web-nic", UID: "uid-1", Driver: "d", Pool: "p", Device: "vf0", ShareID: "s",
	}
	for name, tc := range map[string]struct {
		has        claims
		annotation string
		want       *device.Claim
	}{
		"of a device plugin": {claims{plugins: []string{"z"}, kubelet: []plan.ClaimedDevice{first}}, "n", nil},
		"of the kubelet":     {claims{kubelet: []plan.ClaimedDevice{first}}, "n", want},
		"of the API server":  {claims{api: []plan.ClaimedDevice{first}}, "n", want},
		"of two claims":      {claims{kubelet: []plan.ClaimedDevice{first, second}}, "n", want},
		"selected": {
			claims{api: []plan.ClaimedDevice{first}}, `[{"name":"n","resourceClaim":{"name":"nic"}}]`, want,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := planClaims(t, &tc.has, tc.annotation)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, p.Attachments[1].Claim); d != "" {
				t.Error(d)
			}
			x, err := plan.Explain(p, &request.Request{}, &config.Plugin{})
			if err != nil {
				t.Fatal(err)
			}
			from := "kubelet, which gave the pod a example.com/nic"
			if tc.want != nil {
				from = "claim web-nic, device d/p/vf0"
			}
			if text := fmt.Sprint(x.Attachments[1].Values); !strings.Contains(text, from) {
				t.Errorf("explained as %s, want %q", text, from)
			}
		})
	}
}

// TestSelectedDevice checks that an element that names a claim gets exactly its device, and that no other network gets
// it (behaviour H14).
func TestSelectedDevice(t *testing.T) {
	t.Parallel()
	of := func(claim, request, device string) plan.ClaimedDevice {
		return plan.ClaimedDevice{
			Claim: claim + "-x7z", PodClaim: claim, Request: request, Driver: "d", Pool: "p", Device: device,
		}
	}
	for name, tc := range map[string]struct {
		annotation string
		want       string
	}{
		"by claim":              {`{"name":"n","resourceClaim":{"name":"b"}}`, "vf2"},
		"by request":            {`{"name":"n","resourceClaim":{"name":"a","request":"second"}}`, "vf1"},
		"by an alternative":     {`{"name":"n","resourceClaim":{"name":"c","request":"first"}}`, "raw0"},
		"by the alternative":    {`{"name":"n","resourceClaim":{"name":"c","request":"first/big"}}`, "raw0"},
		"two of a claim":        {`{"name":"n","resourceClaim":{"name":"a"}},{"name":"n","resourceClaim":{"name":"a"}}`, "vf0 vf1"},
		"not given to others":   {`{"name":"n"},{"name":"n"},{"name":"n","resourceClaim":{"name":"a","request":"r"}}`, "vf1 vf2 vf0"},
		"no such claim":         {`{"name":"n","resourceClaim":{"name":"z"}}`, "error: resourceClaim z has no device for it: the pod has no such claim"},
		"no such request":       {`{"name":"n","resourceClaim":{"name":"a","request":"z"}}`, "error: or the claim no such request"},
		"used already":          {`{"name":"n","resourceClaim":{"name":"b"}},{"name":"n","resourceClaim":{"name":"b"}}`, "error: which network n/n has"},
		"a device without ID":   {`{"name":"n","resourceClaim":{"name":"g"}}`, "error: device d/p/gpu: no attributes"},
		"a claim without name":  {`{"name":"n","resourceClaim":{}}`, "error: resourceClaim: it has no name"},
		"a claim of wrong type": {`{"name":"n","resourceClaim":"b"}`, "error: resourceClaim"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			has := &claims{api: []plan.ClaimedDevice{
				of("a", "r", "vf0"), of("a", "second", "vf1"), of("b", "r", "vf2"), of("c", "first/big", "raw0"),
				of("g", "r", "gpu"),
			}}
			got := planDevices(t, has, "["+tc.annotation+"]")
			if !matches(got, tc.want) {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}
