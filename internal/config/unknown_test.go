package config

import (
	"os"
	"slices"
	"testing"
)

// TestUnknown checks that only keys that are never read are unknown, in either file and in any case (behaviour A1,
// A2).
func TestUnknown(t *testing.T) {
	t.Parallel()
	got := Unknown([]byte(`{"cniVersion":"1.0.0","ClusterNetwork":"x","clusterNetworks":"y","capabilities":{},"socketDir":"/run","-":1,"binDirs":[]}`))
	if !slices.Equal(got, []string{"-", "binDirs", "clusterNetworks"}) {
		t.Errorf("%q", got)
	}
	example, err := os.ReadFile("../../examples/node/daemon-config.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := Unknown(example); len(got) > 0 {
		t.Errorf("unknown in the example: %q", got)
	}
	if got := Unknown([]byte("[")); got != nil {
		t.Errorf("%q", got)
	}
}
