package install

import (
	"os"
	"path/filepath"
	"testing"

	"multus/internal/agent/cniconfig"
)

// TestPrimaryOfForced checks that the cluster network with a forced version is restored from its agent's file or,
// without that file, from the copy.
func TestPrimaryOfForced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	forced := filepath.Join(dir, cniconfig.ForcedDir)
	agent, read := filepath.Join(dir, "10-a.conflist"), filepath.Join(forced, "10-a.conflist")
	if err := os.Mkdir(forced, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, version := range map[string]string{agent: "0.3.1", read: "0.4.0"} {
		if err := os.WriteFile(path, []byte(`{"cniVersion":"`+version+`","name":"a","plugins":[{"type":"ptp"}]}`),
			0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := conf{raw: []byte(`{"name":"m","type":"multus-shim","clusterNetwork":"` + forced + `"}`)}
	for _, version := range []string{"0.3.1", "0.4.0"} {
		name, b := c.primary()
		if want := `{"cniVersion":"` + version + `","name":"a","plugins":[{"type":"ptp"}]}`; name != "10-a.conflist" ||
			string(b) != want {
			t.Errorf("%s %s, want %s", name, b, want)
		}
		if err := os.RemoveAll(agent); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range c.clusterNetworks() {
		if err := cniconfig.RemoveForced(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(forced); !os.IsNotExist(err) {
		t.Errorf("the copy is left: %v", err)
	}
}
