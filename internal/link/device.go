package link

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NodeNamespace is the path of the network namespace of the calling thread: that of the node, where the runtime runs
// its plugins. (That of the process is its first thread's, which may be inside of Do.)
const NodeNamespace = "/proc/thread-self/ns/net"

// Device is an interface with what decides whether it can be given away, and by what it is known again.
type Device struct {
	Interface
	AltNames []string
	// Alias is the free text of the interface, where the host-device plugin keeps the name that it had on the node.
	Alias string
	// Permanent is the MAC address that is burnt in, "" if there is none: virtual interfaces have none.
	Permanent string
	// Bus is the address on the bus, as ethtool -i shows it (0000:03:00.0), "" for what is on no bus.
	Bus string
	// Master is the index of the bridge, bond, ... that it belongs to, 0 for none.
	Master int
	// Lower is the index of the interface below it (of a macvlan, vlan, vxlan, ...), in this namespace; 0 for none.
	Lower int
	// Peer is this namespace's number (RTM_GETNSID) for the one with the other end, or the interface below, in
	// it; -1 if that is here or nowhere.
	Peer     int
	Loopback bool
	Carrier  bool
}

// Devices lists the interfaces of the namespace like Interfaces. Where the kernel reports no permanent address or bus
// (permanent address before Linux 5.6, driver without a bus), the field is empty.
func (n *Namespace) Devices() ([]Device, error) {
	links, addrs, err := n.dumpLinks()
	if err != nil {
		return nil, err
	}
	devices := make([]Device, 0, len(links))
	for _, link := range links {
		attrs := link.Attrs()
		d := Device{
			Interface: toInterface(link, addrs), AltNames: attrs.AltNames, Alias: attrs.Alias,
			Permanent: attrs.PermHWAddr.String(),
			Bus:       attrs.ParentDev, Master: attrs.MasterIndex, Peer: attrs.NetNsID,
			Loopback: attrs.Flags&net.FlagLoopback != 0, Carrier: attrs.RawFlags&unix.IFF_LOWER_UP != 0,
		}
		if d.Peer < 0 && !paired(d.Type) {
			d.Lower = lower(link)
		}
		devices = append(devices, d)
	}
	return devices, n.buses(devices)
}

// paired tells the types whose IFLA_LINK is not the interface below but the other end.
func paired(typ string) bool { return typ == "veth" || typ == "netkit" || typ == "vxcan" }

// lower is the index of the interface below; a vxlan says it in an attribute of its own.
func lower(link netlink.Link) int {
	if vxlan, ok := link.(*netlink.Vxlan); ok && vxlan.VtepDevIndex != 0 {
		return vxlan.VtepDevIndex
	}
	return link.Attrs().ParentIndex
}

// buses asks the drivers of hardware where it is. Netlink names the device that the interface belongs to, which for
// virtio is not the one on the PCI bus, and does so since Linux 5.14 only. /sys would tell too, but shows the
// namespace in which it was mounted, not this one.
func (n *Namespace) buses(devices []Device) error {
	return n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket for ethtool: %w", err)
		}
		defer unix.Close(fd)
		for i := range devices {
			d := &devices[i]
			if d.Type != "device" || d.Loopback {
				continue
			}
			info, err := unix.IoctlGetEthtoolDrvinfo(fd, d.Name)
			if err != nil {
				continue // the driver does not tell
			}
			if bus := unix.ByteSliceToString(info.Bus_info[:]); bus != "" && bus != "N/A" {
				d.Bus = bus
			}
		}
		return nil
	})
}

// PeerOf returns this namespace's number for the network namespace at path, as in Device.Peer; -1 if it has none.
// The errors are those of Open.
func (n *Namespace) PeerOf(path string) (int, error) {
	handle, err := n.netlink()
	if err != nil {
		return -1, err
	}
	other, err := Open(path)
	if err != nil {
		return -1, err
	}
	defer other.Close() // it was only looked at
	id, err := handle.GetNetNsIdByFd(other.fd)
	if err != nil {
		return -1, fmt.Errorf("find number of network namespace %q: %w", path, err)
	}
	return id, nil
}

// Rename gives the interface with this index, which must be called from, the name to, and clears its alias. It is
// set down meanwhile, as kernels before 6.2 want it. An interface that is not there, or is called otherwise by
// now, is an error that wraps ErrNoInterface.
func (n *Namespace) Rename(index int, from, to string) (err error) {
	handle, err := n.netlink()
	if err != nil {
		return err
	}
	link, err := n.find(from)
	if err != nil {
		return fmt.Errorf("rename interface: %w", err)
	}
	if attrs := link.Attrs(); attrs.Index != index || attrs.Name != from {
		return fmt.Errorf("rename interface %q (index %d): %w", from, index, ErrNoInterface)
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		if err := handle.LinkSetDown(link); err != nil {
			return fmt.Errorf("set interface %q down: %w", from, err)
		}
		defer func() {
			if up := handle.LinkSetUp(link); up != nil {
				err = errors.Join(err, fmt.Errorf("set interface %q up again: %w", from, up))
			}
		}()
	}
	if err := handle.LinkSetName(link, to); err != nil {
		return fmt.Errorf("rename interface %q to %q: %w", from, to, err)
	}
	if link.Attrs().Alias == "" {
		return nil
	}
	if err := handle.LinkSetAlias(link, ""); err != nil {
		return fmt.Errorf("clear alias of interface %q: %w", to, err)
	}
	return nil
}
