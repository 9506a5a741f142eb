// Command dradriver is a driver of dynamic resource allocation for tests. It publishes the devices of a file as those
// of its node, and prepares every claim. Like drivers of SR-IOV functions, it writes a device-info file for each device
// of a prepared claim, and removes it afterwards.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
)

const (
	// infoDir is where device plugins and drivers put device information for Multus.
	infoDir      = "/var/run/k8s.cni.cncf.io/devinfo/dp"
	resourceName = "k8s.cni.cncf.io/resourceName"
	deviceID     = "k8s.cni.cncf.io/deviceID"
)

// driver implements kubeletplugin.DRAPlugin.
type driver struct {
	devices []resourceapi.Device
	files   map[types.UID][]string // by claim
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "`file` with the API server and credentials")
	node := flag.String("node", "", "`name` of the node")
	name := flag.String("name", "nic.example.com", "`name` of the driver")
	kubelet := flag.String("kubelet", "/var/lib/kubelet", "`directory` of the kubelet")
	file := flag.String("devices", "", "`file` with a JSON array of devices, as in a ResourceSlice")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *kubeconfig, *node, *name, *kubelet, *file); err != nil {
		log.Fatalln("dradriver:", err)
	}
}

func run(ctx context.Context, kubeconfig, node, name, kubelet, file string) error {
	d := &driver{files: map[types.UID][]string{}}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &d.devices)
	}
	if err != nil {
		return fmt.Errorf("read devices: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	data := filepath.Join(kubelet, "plugins", name)
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	helper, err := kubeletplugin.Start(ctx, d, kubeletplugin.DriverName(name), kubeletplugin.NodeName(node),
		kubeletplugin.KubeClient(client), kubeletplugin.PluginDataDirectoryPath(data),
		kubeletplugin.RegistrarDirectoryPath(filepath.Join(kubelet, "plugins_registry")), kubeletplugin.HealthService(false))
	if err != nil {
		return err
	}
	defer helper.Stop()
	err = helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{
		node: {Slices: []resourceslice.Slice{{Devices: d.devices}}},
	}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// PrepareResourceClaims implements kubeletplugin.DRAPlugin.
func (d *driver) PrepareResourceClaims(_ context.Context, claims []*resourceapi.ResourceClaim,
) (map[types.UID]kubeletplugin.PrepareResult, error) {
	out := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		var result kubeletplugin.PrepareResult
		if strings.Contains(claim.Name, "unprepared") {
			result.Err = errors.New("the test wants it so")
		} else {
			for _, r := range claim.Status.Allocation.Devices.Results {
				result.Devices = append(result.Devices, kubeletplugin.Device{
					Requests: []string{r.Request}, PoolName: r.Pool, DeviceName: r.Device,
				})
				if err := d.describe(claim.UID, r.Device); err != nil {
					result.Err = err
				}
			}
		}
		out[claim.UID] = result
	}
	return out, nil
}

// describe writes the device-info file of a device.
func (d *driver) describe(claim types.UID, name string) error {
	for i := range d.devices {
		a := d.devices[i].Attributes
		if d.devices[i].Name != name || a[resourceName].StringValue == nil || a[deviceID].StringValue == nil {
			continue
		}
		file := filepath.Join(infoDir, strings.ReplaceAll(*a[resourceName].StringValue+"-"+*a[deviceID].StringValue,
			"/", "-")+"-device.json")
		info := fmt.Sprintf(`{"type":"pci","version":"1.1.0","pci":{"pci-address":%q}}`, *a[deviceID].StringValue)
		if err := os.MkdirAll(infoDir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(info), 0o644); err != nil {
			return err
		}
		d.files[claim] = append(d.files[claim], file)
	}
	return nil
}

// UnprepareResourceClaims implements kubeletplugin.DRAPlugin.
func (d *driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject,
) (map[types.UID]error, error) {
	out := map[types.UID]error{}
	for _, claim := range claims {
		for _, file := range d.files[claim.UID] {
			_ = os.Remove(file) // shared by several claims, or removed before
		}
		delete(d.files, claim.UID)
		out[claim.UID] = nil
	}
	return out, nil
}

// HandleError implements kubeletplugin.DRAPlugin.
func (d *driver) HandleError(_ context.Context, err error, msg string) { log.Println(msg, err) }

// WatchHealthStatus implements kubeletplugin.DRAPlugin.
func (d *driver) WatchHealthStatus(ctx context.Context, _ chan<- kubeletplugin.DeviceHealthReport) error {
	<-ctx.Done()
	return ctx.Err()
}
