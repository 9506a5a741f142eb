package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/testutil/node"
)

// vfioNode runs plugins with a directory of the test mounted over the PCI devices of the machine.
type vfioNode struct {
	invoke.DefaultExec
	devices string
}

const pciDevices = "/sys/bus/pci/devices"

// newVfioNode returns a node with two network controllers that have the driver vfio-pci, as for virtual machines and
// DPDK.
func newVfioNode(t *testing.T) *vfioNode {
	t.Helper()
	if _, err := os.Stat(pciDevices); err != nil {
		t.Skipf("the machine has no PCI bus: %v", err)
	}
	dir := t.TempDir()
	driver := filepath.Join(t.TempDir(), "vfio-pci")
	err := os.Mkdir(driver, 0o755)
	for _, address := range []string{"0000:3b:02.1", "0000:3b:02.2"} {
		d := filepath.Join(dir, address)
		err = errors.Join(err, os.Mkdir(d, 0o755), os.WriteFile(filepath.Join(d, "class"), []byte("0x020000\n"), 0o600),
			os.Symlink(driver, filepath.Join(d, "driver")))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &vfioNode{DefaultExec: invoke.DefaultExec{RawExec: &invoke.RawExec{}}, devices: dir}
}

// ExecPlugin runs a plugin and its children in a mount namespace of their own.
func (v *vfioNode) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `mount --bind "$1" `+pciDevices+` && exec "$2"`, "sh", v.devices,
		plugin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.Env, cmd.Stdin = environ, bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		ce := &types.Error{}
		if json.Unmarshal(out.Bytes(), ce) == nil && ce.Msg != "" {
			return nil, ce
		}
		return nil, fmt.Errorf("%w: %s%s", err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes(), nil
}

// TestHostDeviceUserspace checks devices for DPDK. No interface leaves the node, so the plugin itself would give one
// device to several pods. Multus keeps it for the first pod until that pod is deleted, and only one of several
// concurrent requests succeeds (multus-cni#1134).
func TestHostDeviceUserspace(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newBareSite(t, kind, node.Options{})
			s.Exec = newVfioNode(t)
			for name, address := range map[string]string{"one": "0000:3b:02.1", "two": "0000:3b:02.2"} {
				s.api.CreateNetwork(t, s.ns, name,
					fmt.Sprintf(`{"cniVersion":"1.0.0","type":"host-device","pciBusID":%q}`, address), nil)
			}
			t.Run("held", func(t *testing.T) { s.holdsUserspace(t) })
			t.Run("twice in one pod", func(t *testing.T) {
				p := s.pod(t, "twice", map[string]string{networks: "one,one"}, true)
				s.notAttached(t, p, types.ErrInvalidNetworkConfig,
					fmt.Sprintf(`device "0000:3b:02.1" of network %s/one is not free: network %[1]s/one of the same pod takes it`,
						s.ns))
			})
			t.Run("race", func(t *testing.T) { s.racesForUserspace(t) })
		})
	}
}

func (s *site) holdsUserspace(t *testing.T) {
	t.Helper()
	first := s.attachedPod(t, "first", "one")
	second := s.pod(t, "second", map[string]string{networks: "one"}, true)
	s.notAttached(t, second, types.ErrTryAgainLater, fmt.Sprintf(
		`pciBusID "0000:3b:02.1" of network %s/one is not free: pod %s/first (sandbox %s, interface net1) has it; free devices of this node: 0000:3b:02.2; wait until that pod is gone`,
		s.ns, s.ns, first.ContainerID))
	other := s.attachedPod(t, "other", "two")
	s.gone(t, s.Conf(), first)
	again := s.attachedPod(t, "again", "one")
	s.gone(t, s.Conf(), again)
	s.gone(t, s.Conf(), other)
}

func (s *site) racesForUserspace(t *testing.T) {
	t.Helper()
	const pods = 4
	racers := make([]*node.Pod, pods)
	for i := range racers {
		racers[i] = s.pod(t, fmt.Sprintf("racer-%d", i), map[string]string{networks: "one"}, true)
	}
	errs := make([]error, pods)
	var wg sync.WaitGroup
	for i, p := range racers {
		wg.Go(func() { _, errs[i] = s.Add(t, s.Conf(), p) })
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		var ce *types.Error
		switch {
		case err == nil:
			won++
		case !errors.As(err, &ce) || ce.Code != types.ErrTryAgainLater:
			t.Errorf("racer %d: %v", i, err)
		default:
			names(t, ce.Error(), "is not free: pod "+s.ns+"/racer-", `"0000:3b:02.1"`)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d pods have the device: %v", won, pods, errs)
	}
	for _, p := range racers {
		s.gone(t, s.Conf(), p)
	}
}
