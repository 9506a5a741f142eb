package faults

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"multus/internal/failpoint"
	"multus/internal/fsx"
	hostnode "multus/internal/node"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// deviceSite returns a node with a spare NIC, and a network that attaches it.
func deviceSite(t *testing.T, kind node.Kind) *site {
	t.Helper()
	v := variants[1]
	v.networks, v.names = "nic", []string{"cluster", "default/nic"}
	s := newSite(t, kind, v, nil)
	s.define(t, "nic", `{"cniVersion":"1.0.0","type":"host-device","device":"eth1","ipam":{"type":"static","addresses":[{"address":"192.0.2.9/24"}]}}`)
	testnet.Veth(t, s.NS, "eth1", testnet.New(t), "peer1")
	return s
}

// settle waits for the delegates of a killed plugin, as DEL does.
func (s *site) settle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	l, err := fsx.Acquire(ctx, hostnode.LockFile, s.pod.ContainerID)
	check(t, err)
	check(t, l.Release())
}

// vanish ends the pod's namespace and moves the NIC as the kernel does with hardware: it is on the node under the name
// that it had in the pod. The runtime then has no path to pass.
func (s *site) vanish(t *testing.T) {
	t.Helper()
	s.settle(t)
	if slices.Contains(interfaces(t, s.pod.NS), "net1") {
		testnet.Move(t, s.pod.NS, "net1", s.NS)
	}
	check(t, testnet.Delete(s.pod.Path))
	s.pod.Path = ""
}

// home checks that the NIC is on the node under its own name.
func (s *site) home(t *testing.T, r *row, what string) {
	t.Helper()
	have := interfaces(t, s.NS)
	if slices.Contains(have, "eth1") && !slices.Contains(have, "net1") {
		return
	}
	r.bad(t, &r.interfaces, 1, "%s: the node has %s, want eth1", what, strings.Join(have, " "))
	if slices.Contains(have, "net1") {
		testnet.Rename(t, s.NS, "net1", "eth1")
	}
}

// TestDevicePoints kills the plugin at every point that it passes with a device of the node, alternately thin and
// thick, for pods that vanish and for others. DEL returns the device to the node under its name, and the next pod gets
// it (multus-cni#1134).
func TestDevicePoints(t *testing.T) {
	t.Parallel()
	vanished := func(t *testing.T, s *site) { t.Helper(); s.attach(t); s.vanish(t) }
	eachKind(t, func(t *testing.T, k int, kind node.Kind) {
		s := deviceSite(t, kind)
		r := table.row("plugin killed at every point with a device, " + string(kind))
		var seen []string
		s.end(t, r, "the first pod of the network") // the first pod causes more writes than later ones
		for _, verb := range []verb{
			{"ADD", fresh, plain("ADD")},
			{"DEL", attached, plain("DEL")},
			{"DEL of a vanished pod", vanished, plain("DEL")},
		} {
			verb.before(t, s)
			points := s.trace(t, verb.name, func(env ...string) error { return verb.call(t, s, env...) })
			s.end(t, r, verb.name)
			for n, p := range points {
				seen = append(seen, p.name)
				if n%len(node.Kinds) != k && !long() {
					continue
				}
				verb.before(t, s)
				if err := verb.call(t, s, p.env()); !errors.Is(err, errKilled) {
					t.Errorf("%s: not killed: %v", p, err)
				}
				if n/len(node.Kinds)%2 == 1 && s.pod.Path != "" {
					s.vanish(t)
				}
				r.try()
				s.end(t, r, p.String())
			}
		}
		for _, name := range failpoint.Names {
			if strings.HasPrefix(name, "devices.") && !slices.Contains(seen, name) {
				t.Errorf("no verb passes point %s", name)
			}
		}
	})
}

// end deletes the site's pod, and attaches and deletes the next one.
func (s *site) end(t *testing.T, r *row, what string) {
	t.Helper()
	s.del(t, r, what)
	s.home(t, r, what)
	if s.pod.Path == "" {
		s.newPod(t)
	}
	if err := s.call(t, "ADD"); err != nil {
		r.bad(t, &r.stuck, 1, "%s: next ADD: %v", what, err)
	}
	s.del(t, r, what+", again")
	s.home(t, r, what+", again")
	s.clean(t, r, what+", again")
}
