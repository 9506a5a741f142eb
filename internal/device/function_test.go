package device

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPhysicalFunction(t *testing.T) {
	t.Parallel()
	sys := tree(t, "bus/pci/devices/0000:3b:00.0", "bus/pci/devices/0000:3b:02.1")
	if err := os.Symlink("../0000:3b:00.0", filepath.Join(sys, "bus/pci/devices/0000:3b:02.1/physfn")); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"0000:3b:02.1": "0000:3b:00.0",
		"0000:3b:00.0": "0000:3b:00.0",
		"0000:3b:02.2": "",
		"":             "",
		"../devices":   "",
	} {
		if got := physicalFunction(sys, address); got != want {
			t.Errorf("%q: %q, not %q", address, got, want)
		}
	}
}
