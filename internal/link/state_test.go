package link_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multus/internal/testutil/testnet"
)

// TestStates checks which addresses of an interface last, and that alternative names are listed (behaviour R26).
func TestStates(t *testing.T) {
	t.Parallel()
	pod, other := testnet.New(t), testnet.New(t)
	testnet.Veth(t, pod, "net1", other, "peer")
	pod.Do(t, func() {
		l, err := netlink.LinkByName("net1")
		if err != nil {
			t.Fatal(err)
		}
		errs := []error{netlink.LinkAddAltName(l, "another-name")}
		for _, a := range []struct {
			prefix        string
			lft           int
			flags, ofLink int
		}{
			{prefix: "192.0.2.2/24"},
			{prefix: "192.0.2.3/24"}, // a second address of its subnet
			{prefix: "192.0.2.4/24", lft: 600},
			{prefix: "169.254.7.7/16", ofLink: unix.RT_SCOPE_LINK},
			{prefix: "2001:db8::2/64", flags: unix.IFA_F_NODAD},
			{prefix: "2001:db8::3/64", lft: 600, flags: unix.IFA_F_NODAD},
			{prefix: "fe80::7/64", flags: unix.IFA_F_NODAD},
		} {
			addr, err := netlink.ParseAddr(a.prefix)
			if err != nil {
				t.Fatal(err)
			}
			addr.ValidLft, addr.PreferedLft, addr.Flags = a.lft, a.lft, a.flags
			if a.ofLink != 0 {
				addr.Scope = a.ofLink
			}
			errs = append(errs, netlink.AddrAdd(l, addr))
		}
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	})
	states, err := open(t, pod).States()
	if err != nil {
		t.Fatal(err)
	}
	var lasting, all []string
	for i := range states {
		s := &states[i]
		if s.Name != "net1" {
			continue
		}
		if !slices.Equal(s.AltNames, []string{"another-name"}) || s.MAC == "" || s.MTU == 0 {
			t.Errorf("%+v", s)
		}
		for _, a := range s.Addresses {
			all = append(all, a.Prefix.String())
			if a.Lasting {
				lasting = append(lasting, a.Prefix.String())
			}
		}
	}
	slices.Sort(lasting)
	if want := []string{"192.0.2.2/24", "192.0.2.3/24", "2001:db8::2/64"}; !slices.Equal(lasting, want) {
		t.Errorf("lasting: %q, want %q", lasting, want)
	}
	for _, a := range []string{"192.0.2.4/24", "169.254.7.7/16", "2001:db8::3/64", "fe80::7/64"} {
		if !slices.Contains(all, a) {
			t.Errorf("%s is not listed: %q", a, all)
		}
	}
}
