package cniconfig

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
)

// planned returns the configuration of the cluster network that ADD and DEL use with conf, the version of conf, and
// that of the cluster network.
func planned(t *testing.T, conf string) (network, outer, inner string) {
	t.Helper()
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.ParsePlugin(b)
	if err != nil {
		t.Fatal(err)
	}
	r := &plan.Resolver{Log: slog.New(slog.DiscardHandler)}
	p, err := r.Plan(t.Context(), &request.Request{Command: request.Status}, c)
	if err != nil {
		t.Fatal(err)
	}
	return string(p.Attachments[0].Config.Bytes()), c.CNIVersion, p.Attachments[0].Config.Version()
}

// TestForcedVersion checks that with forceCNIVersion the plugin uses the cluster network with the version of the
// configuration, and that the cluster network's own file is not changed (behaviour F23).
func TestForcedVersion(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, content string }{
		"a list": {
			"10-kindnet.conflist",
			`{"cniVersion": "0.3.1", "name":"kindnet","plugins":[{"type":"ptp","ipMasq":false},{"type":"portmap","capabilities":{"portMappings":true}}]}`,
		},
		"a plugin":           {"10-a.conf", `{"cniVersion":"0.3.1","name":"a","type":"ptp"}`},
		"a plugin in .json":  {"10-a.json", `{"cniVersion":"0.3.1","name":"a","type":"ptp"}`},
		"without a version":  {"10-a.conflist", `{"name":"a","plugins":[{"type":"ptp"}]}`},
		"of a newer version": {"10-a.conflist", `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"ptp"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, dir, tc.file, tc.content)
			s := controllerAt(t, dir, `{"cniVersion":"0.4.0","forceCNIVersion":true}`)
			s.sync()
			if s.Ready() != nil {
				t.Fatal(s.Ready())
			}
			network, outer, inner := planned(t, filepath.Join(dir, FileName))
			if outer != "0.4.0" || inner != "0.4.0" || strings.Contains(network, "0.3.1") ||
				!strings.Contains(network, `"ptp"`) {
				t.Errorf("configuration %s, network %s", outer, network)
			}
			if b, err := os.ReadFile(filepath.Join(dir, tc.file)); err != nil || string(b) != tc.content {
				t.Errorf("the cluster network's own file: %s, %v", b, err)
			}
			read, agent := ClusterNetworkFiles(filepath.Join(dir, ForcedDir))
			if filepath.Dir(read) != filepath.Join(dir, ForcedDir) || agent != filepath.Join(dir, tc.file) {
				t.Errorf("File: %s, %s", read, agent)
			}
		})
	}
}

// TestForcedVersionFollows checks that the copy includes the plugins of the list's subdirectory, that it follows the
// file and the subdirectory, and that it is removed with the file and with the key.
func TestForcedVersionFollows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf := filepath.Join(dir, FileName)
	forced := filepath.Join(dir, ForcedDir)
	put(t, dir, "10-a.conflist", `{"cniVersion":"0.3.1","name":"a","plugins":[{"type":"ptp"}]}`)
	s := controllerAt(t, dir, `{"cniVersion":"0.4.0","forceCNIVersion":true}`)
	stop := startController(t, s)
	copied := func(text string) func() bool {
		return func() bool { return has(filepath.Join(forced, "10-a.conflist"), text) }
	}
	eventually.Within(t, waitTimeout, "the copy", copied(`"0.4.0"`))
	put(t, dir, "10-a.conflist", `{"cniVersion":"0.3.1","name":"a","plugins":[{"type":"bridge"}]}`)
	eventually.Within(t, waitTimeout, "the change", copied(`"bridge"`))
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "a"), "tuning.conf", `{"type":"tuning"}`)
	eventually.Within(t, waitTimeout, "the plugin of the sub-directory", copied(`"tuning"`))
	put(t, filepath.Join(dir, "a"), "tuning.conf", `{"type":"tuning","mtu":1400}`)
	eventually.Within(t, waitTimeout, "its change", copied(`1400`))
	if network, _, _ := planned(t, conf); strings.Count(network, `"tuning"`) != 1 {
		t.Errorf("the plugin of the sub-directory runs more than once: %s", network)
	}
	put(t, dir, "05-b.conflist", `{"cniVersion":"0.3.1","name":"b","plugins":[{"type":"ptp"}]}`)
	eventually.Within(t, waitTimeout, "another file", func() bool {
		return has(filepath.Join(forced, "05-b.conflist"), `"0.4.0"`) && !copied("")()
	})
	for _, name := range []string{"05-b.conflist", "10-a.conflist"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually.Within(t, waitTimeout, "the copy of a removed file",
		func() bool { _, err := os.Stat(forced); return os.IsNotExist(err) })
	put(t, dir, "10-a.conflist", primary("a", "ptp"))
	eventually.Within(t, waitTimeout, "the copy again", copied(`"0.4.0"`))
	stop()
	s = controllerAt(t, dir, `{"cniVersion":"0.4.0"}`)
	s.sync()
	if _, err := os.Stat(forced); !os.IsNotExist(err) || !has(conf, "10-a.conflist") {
		t.Errorf("the copy is left without the key: %v", err)
	}
}

// TestForcedVersionFails checks that if the copy cannot be written, the daemon is not ready and the previous
// configuration stays in force.
func TestForcedVersionFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "10-a.conflist", `{"cniVersion":"0.3.1","name":"a","plugins":[{"type":"ptp"}]}`)
	controllerAt(t, dir, `{}`).sync()
	put(t, dir, ForcedDir, "a file in place of the directory")
	s := controllerAt(t, dir, `{"cniVersion":"0.4.0","forceCNIVersion":true}`)
	s.sync()
	if s.InForce() != nil || s.Ready() == nil || !strings.Contains(s.Ready().Error(), "force cniVersion 0.4.0 of "+dir) {
		t.Errorf("owned %v, ready %v", s.InForce(), s.Ready())
	}
	if _, outer, _ := planned(t, filepath.Join(dir, FileName)); outer != "0.3.1" {
		t.Errorf("version %s", outer)
	}
}
