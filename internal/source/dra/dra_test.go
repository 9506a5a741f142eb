package dra_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"multus/internal/engine/plan"
	"multus/internal/source/dra"
)

// slices has the attributes of devices by name.
type slices map[string]dra.Attributes

// Attributes implements dra.Slices.
func (s slices) Attributes(_ context.Context, d dra.Device) (dra.Attributes, error) {
	a, ok := s[d.Name]
	if d.Pool == "broken" {
		return a, plan.ErrUnavailable
	}
	if !ok || d.Driver != "nic.example.com" {
		return a, fmt.Errorf("%w: %s", plan.ErrNotFound, d.Name)
	}
	return a, nil
}

func claimed(claim, device string) plan.ClaimedDevice {
	return plan.ClaimedDevice{Claim: claim, Driver: "nic.example.com", Pool: "node-a", Device: device}
}

// TestDescribe checks which devices of claims count, and that the reason is known for the others (behaviour H10, H13).
func TestDescribe(t *testing.T) {
	t.Parallel()
	attributes := slices{
		"vf0": {"example.com/nic", "0000:01:00.0"}, "gpu": {}, "unnamed": {"example.com/nic", ""},
	}
	for name, tc := range map[string]struct {
		claimed plan.ClaimedDevice
		want    string
	}{
		"a NIC":          {claimed("a", "vf0"), "claim a, device nic.example.com/node-a/vf0: example.com/nic"},
		"a GPU":          {claimed("a", "gpu"), ": the device has no attribute k8s.cni.cncf.io/resourceName"},
		"no device ID":   {claimed("a", "unnamed"), ": the device has no attribute k8s.cni.cncf.io/deviceID"},
		"in no slice":    {claimed("a", "gone"), ": no ResourceSlice has the device"},
		"other driver":   {plan.ClaimedDevice{Claim: "a", Driver: "gpu", Pool: "p", Device: "vf0"}, "no ResourceSlice"},
		"without device": {plan.ClaimedDevice{Claim: "a", Problem: "not allocated"}, "claim a: not allocated"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := []plan.ClaimedDevice{tc.claimed}
			if err := (&dra.Devices{Slices: attributes}).Describe(t.Context(), one); err != nil {
				t.Fatal(err)
			}
			if got := one[0].String(); !strings.HasSuffix(got, tc.want) && !strings.Contains(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
			usable := one[0].ID != "" && one[0].Resource != ""
			if usable == (one[0].Problem != "") || usable != (name == "a NIC") {
				t.Errorf("%+v", one[0])
			}
		})
	}
}

// TestUnavailable checks that a slice that cannot be read is an error: without its attributes the device might be
// missed.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	err := (&dra.Devices{Slices: slices{}}).Describe(t.Context(),
		[]plan.ClaimedDevice{{Claim: "a", Driver: "d", Pool: "broken", Device: "x"}})
	if !errors.Is(err, plan.ErrUnavailable) || !strings.Contains(err.Error(), "d/broken/x of claim a") {
		t.Errorf("%v", err)
	}
}
