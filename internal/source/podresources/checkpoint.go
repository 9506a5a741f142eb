package podresources

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"multus/internal/fsx"
)

// maxCheckpoint limits the size of the checkpoint file. That of a node with thousands of devices has a few MiB.
const maxCheckpoint = 64 << 20

// checkpoint is the part of the kubelet's device manager checkpoint that Multus uses. The checksum is not verified,
// because it is computed from the Go representation of the kubelet's types, which changes (behaviour H3).
type checkpoint struct {
	Data struct {
		PodDeviceEntries []struct {
			PodUID        string
			ContainerName string
			ResourceName  string
			DeviceIDs     map[string][]string // by NUMA node
		}
	}
}

func fromCheckpoint(path, uid string) (map[string][]string, error) {
	if uid == "" {
		return nil, fmt.Errorf("read %s: the UID of the pod is unknown, and entries are stored by UID", path)
	}
	data, err := fsx.ReadFile(path, maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var devices map[string][]string
	if err == nil {
		devices, err = parseCheckpoint(data, uid)
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w; %s", path, err, nextStep)
	}
	return devices, nil
}

func parseCheckpoint(data []byte, uid string) (map[string][]string, error) {
	var c checkpoint
	if len(data) == 0 {
		return nil, errors.New("the file is empty")
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, err
	}
	type place struct{ container, resource string }
	of := map[place][]string{}
	var order []place
	for _, entry := range c.Data.PodDeviceEntries {
		if entry.PodUID != uid {
			continue
		}
		at := place{entry.ContainerName, entry.ResourceName}
		if _, ok := of[at]; !ok {
			order = append(order, at)
		}
		for _, ids := range entry.DeviceIDs {
			of[at] = append(of[at], ids...)
		}
	}
	devices := allocated{}
	for _, at := range order {
		devices.add(at.resource, of[at])
	}
	return devices, nil
}
