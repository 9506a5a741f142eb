package faults

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multus/internal/link"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// stormy is the number of interfaces of a namespace in a storm. It is so large that a dump of them takes several
// messages.
const stormy = 150

// storm creates and deletes interfaces of a namespace in a loop until the returned function is called.
func storm(t *testing.T, ns *testnet.NS) (stop func()) {
	t.Helper()
	testnet.Bridge(t, ns, "storm")
	for i := range stormy {
		testnet.On(t, ns, "storm", fmt.Sprintf("s%d", i), "macvlan")
	}
	var handle *netlink.Handle
	var lower netlink.Link
	var err error
	ns.Do(t, func() {
		if handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
			lower, err = handle.LinkByName("storm")
		}
	})
	check(t, err)
	passes := func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = "passes", lower.Attrs().Index
		l := &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
		return errors.Join(handle.LinkAdd(l), handle.LinkDel(l))
	}
	var wg sync.WaitGroup
	var over atomic.Bool
	wg.Go(func() {
		defer handle.Close()
		for !over.Load() {
			if err := passes(); err != nil {
				t.Errorf("add and delete an interface of the storm: %v", err)
				return
			}
		}
	})
	return func() { over.Store(true); wg.Wait() }
}

// TestLinkStorm lists interfaces while they change all the time, so that the kernel interrupts the dumps
// (NLM_F_DUMP_INTR). No existing interface is missed, and no missing one is reported.
func TestLinkStorm(t *testing.T) {
	t.Parallel()
	testnet.RequireRoot(t)
	ns := testnet.New(t)
	testnet.Bridge(t, ns, "stays")
	stop := storm(t, ns)
	defer stop()
	n, err := link.Open(ns.Path)
	check(t, err)
	defer n.Close()
	interrupted := 0
	for range 300 {
		if testnet.Interrupted(t, ns) {
			interrupted++
		}
		list, err := n.Interfaces()
		if err != nil {
			t.Fatalf("list interfaces: %v", err)
		}
		if !slices.ContainsFunc(list, func(i link.Interface) bool { return i.Name == "stays" }) {
			t.Fatalf("interface missed among %d", len(list))
		}
		if there, err := n.HasInterface("stays"); err != nil || !there {
			t.Fatalf("interface: %t, %v", there, err)
		}
		if there, err := n.HasInterface("absent"); err != nil || there {
			t.Fatalf("interface that is not there: %t, %v", there, err)
		}
	}
	t.Logf("%d of 300 lists were interrupted", interrupted)
	if interrupted == 0 {
		t.Error("nothing is shown")
	}
}

// TestPodsInLinkStorm attaches and deletes pods while interfaces of the node change all the time.
func TestPodsInLinkStorm(t *testing.T) {
	t.Parallel()
	s := deviceSite(t, node.Thin)
	r := table.row("interfaces of the node change all the time")
	defer storm(t, s.NS)()
	tries := 2
	if long() {
		tries = 20
	}
	for range tries {
		r.try()
		s.attach(t)
		s.end(t, r, "storm")
	}
}
