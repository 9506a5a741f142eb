package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"multus/internal/engine/ledger"
	"multus/internal/fsx"
)

// maxDeviceInfo is the maximum size of a device-info file. Larger files are not read.
const maxDeviceInfo = 256 << 10

// copyDeviceInfo copies the device plugin's device-info file to the path where the attachment's file is expected
// (behaviour H31). A missing file is not an error.
func copyDeviceInfo(a *ledger.Attachment) {
	if a.DeviceInfo == "" {
		return
	}
	_ = os.Remove(a.DeviceInfo) // left by a crashed ADD (behaviour H35)
	if a.Resource == "" {
		return
	}
	from := filepath.Join(filepath.Dir(filepath.Dir(a.DeviceInfo)), "dp")
	b, err := fsx.ReadRegular(from, deviceFile(a.Resource, a.DeviceID), maxDeviceInfo)
	if err != nil {
		return
	}
	if err := os.MkdirAll(filepath.Dir(a.DeviceInfo), 0o755); err == nil {
		_ = os.WriteFile(a.DeviceInfo, b, 0o444)
	}
}

// readDeviceInfo returns the device information that the device plugin or the delegate wrote (behaviour H33).
func readDeviceInfo(a *ledger.Attachment) json.RawMessage {
	if a.DeviceInfo == "" {
		return nil
	}
	b, err := fsx.ReadRegular(filepath.Dir(a.DeviceInfo), filepath.Base(a.DeviceInfo), maxDeviceInfo)
	if err != nil || !json.Valid(b) {
		return nil
	}
	return b
}

// deviceFile returns the device plugin's file name for a device (behaviour H30).
func deviceFile(resource, id string) string {
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "-") }
	return flat(resource) + "-" + flat(id) + "-device.json"
}
