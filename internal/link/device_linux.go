package link

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Devices lists the interfaces of the namespace, like Interfaces. Permanent or Bus is empty if the kernel does not
// report it (permanent address before Linux 5.6, driver without a bus).
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

// paired reports whether IFLA_LINK of a type is the other end instead of the interface below.
func paired(typ string) bool { return typ == "veth" || typ == "netkit" || typ == "vxcan" }

// lower returns the index of the interface below. A vxlan has it in an attribute of its own.
func lower(link netlink.Link) int {
	if vxlan, ok := link.(*netlink.Vxlan); ok && vxlan.VtepDevIndex != 0 {
		return vxlan.VtepDevIndex
	}
	return link.Attrs().ParentIndex
}

// buses reads the bus address of hardware from its driver. Netlink reports it only since Linux 5.14. It reports the
// parent device of the interface, which for virtio is not the one on the PCI bus. /sys also has it, but shows the
// namespace in which it was mounted.
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
				continue // the driver does not report it
			}
			if bus := unix.ByteSliceToString(info.Bus_info[:]); bus != "" && bus != "N/A" {
				d.Bus = bus
			}
		}
		return nil
	})
}

// PeerOf returns the ID in this namespace of the network namespace at path, as in Device.Peer, or -1 if it has none.
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
	defer other.Close() // it was only read
	id, err := handle.GetNetNsIdByFd(other.fd)
	if err != nil {
		return -1, fmt.Errorf("find number of network namespace %q: %w", path, err)
	}
	return id, nil
}

// Rename renames the interface with this index from from to to, and clears its alias. The interface is set down in the
// meantime, as kernels before 6.2 require. If the interface does not exist, or no longer has this name, the error wraps
// ErrNoInterface.
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
