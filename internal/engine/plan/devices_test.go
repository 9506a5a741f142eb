package plan_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"multus/internal/config"
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
		"shared by two claims":           {claims{kubelet: claimed("vf0", "vf0")}, 2, "no device", 1, 1},
		"the kubelet lists no claims":    {claims{api: claimed("vf0")}, 1, "vf0", 0, 1},
		"none at all":                    {claims{}, 1, "the kubelet gave the pod 0", 0, 1},
		"only a GPU":                     {claims{kubelet: gpu}, 1, "claim c0, device d/p/gpu: no attributes", 1, 1},
		"claim without results":          {claims{api: none}, 1, "claim c: no device is allocated", 0, 1},
		"claims that cannot be read":     {claims{apiError: errors.New("denied")}, 1, "claim of the pod: denied", 0, 1},
		"claims that cannot be read now": {claims{apiError: plan.ErrUnavailable}, 1, "source unavailable", 0, 1},
		"too few, and the API has no more": {
			claims{kubelet: claimed("vf0"), api: claimed("vf0")}, 2, "claim c0, device d/p/vf0: example.com/nic", 1, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf, err := config.ParsePlugin([]byte(`{"delegates":[{"cniVersion":"1.0.0","name":"c","type":"c"}],
				"runtimeConfig":{"` + config.PodAnnotations + `":{"k8s.v1.cni.cncf.io/networks":"` +
				strings.TrimSuffix(strings.Repeat("nic,", tc.networks), ",") + `"}}}`))
			if err != nil {
				t.Fatal(err)
			}
			r := &plan.Resolver{Networks: &tc.has, Devices: &tc.has, Log: slog.New(slog.DiscardHandler)}
			p, err := r.Plan(t.Context(), &request.Request{
				Command: request.Add, ContainerID: "c1", Netns: "/run/netns/x", IfName: "eth0",
				Args: request.Args{{request.PodNamespace, "n"}, {request.PodName, "p"}, {request.PodUID, "u"}},
			}, conf)
			got := fmt.Sprint(err)
			if err == nil {
				var devices []string
				for i := range p.Attachments[1:] {
					devices = append(devices, p.Attachments[1+i].Device)
				}
				got = strings.Join(devices, " ")
			}
			if err == nil && got != tc.want || !strings.Contains(got, tc.want) {
				t.Errorf("%s, want %s", got, tc.want)
			}
			if tc.has.described != tc.described || tc.has.claimsCalls != tc.read {
				t.Errorf("described %d times, read %d times, want %d and %d", tc.has.described, tc.has.claimsCalls,
					tc.described, tc.read)
			}
		})
	}
}
