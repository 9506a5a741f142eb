package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/config"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// TestSocketDirOfTodaysManifests checks the path of the socket for a configuration that was written for today's
// manifests. It names the socket directory below a mount that our manifests do not have. If the mount exists, the path
// is used unchanged.
func TestSocketDirOfTodaysManifests(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ chroot, socketDir, mounted, want string }{
		"not mounted":         {"/hostroot", "/host/run/multus", "", "/run/multus"},
		"no prefix":           {"", "/run/multus", "", "/run/multus"},
		"own prefix":          {"ROOT/away", "ROOT/away/run/multus", "", "/run/multus"},
		"own prefix, mounted": {"ROOT/here", "ROOT/here/run/multus", "here", "ROOT/here/run/multus"},
		"default":             {"", "", "", "/run/multus/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, tc.mounted), 0o700); err != nil {
				t.Fatal(err)
			}
			in := func(s string) string { return strings.ReplaceAll(s, "ROOT", dir) }
			text := fmt.Sprintf(`{"chrootDir":%q,"socketDir":%q}`, in(tc.chroot), in(tc.socketDir))
			if tc.socketDir == "" {
				text = "{}"
			}
			file := filepath.Join(dir, "c.json")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			conf, err := (&Options{Config: file}).configuration()
			if err != nil {
				t.Fatal(err)
			}
			if conf.SocketDir != in(tc.want) {
				t.Errorf("socketDir is %s, want %s", conf.SocketDir, in(tc.want))
			}
		})
	}
}

// TestInvalidValues checks that the daemon does not start with a value that no runtime or no command can use, and that
// the error names the key and the permitted values.
func TestInvalidValues(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`{"cniVersion":"1.2.0"}`:                      {`cniVersion is "1.2.0"`, "auto", "1.0.0, 1.1.0"},
		`{"cniVersion":"v1.0.0"}`:                     {`cniVersion is "v1.0.0"`, "auto", "1.0.0, 1.1.0"},
		`{"checkNetworks":"al"}`:                      {`checkNetworks is "al"`, `"cluster" or "all"`},
		`{"cniVersion":"auto","checkNetworks":"all"}`: nil, `{"cniVersion":"0.3.1","checkNetworks":"cluster"}`: nil,
		`{}`: nil,
	} {
		file := filepath.Join(t.TempDir(), "c.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (&Options{Config: file}).configuration()
		if (err == nil) != (want == nil) {
			t.Errorf("%s: %v", text, err)
		}
		for _, w := range want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not have %q", text, err, w)
			}
		}
	}
}

// TestInvalidSocketDir checks that the error for an unusable socketDir names the key and what to do.
func TestInvalidSocketDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "c.json")
	if err := os.WriteFile(file, fmt.Appendf(nil,
		`{"networksDir":%q,"socketDir":"/dev/null/multus","logFile":%q,"logToStderr":false}`, dir, filepath.Join(dir, "log")),
		0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Options{Config: file, Getenv: func(string) string { return "" }})
	if err == nil || !strings.Contains(err.Error(), "socketDir of "+file) ||
		!strings.Contains(err.Error(), "set socketDir to") {
		t.Errorf("error %v does not name the key and the remedy", err)
	}
}

// TestMetricsAddress checks where the metrics are served (behaviour F70).
func TestMetricsAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"": ":9091", "127.0.0.1": "127.0.0.1:9091", "::1": "[::1]:9091", "localhost": "", "127.0.0.1:1": "", "10.0.0.0/8": "",
	} {
		got, err := metricsAddress(address, 9091)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", address, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "metricsAddress") || !strings.Contains(err.Error(), address)) {
			t.Errorf("error %v does not name the key and the value", err)
		}
	}
	file := filepath.Join(t.TempDir(), "c.json")
	if err := os.WriteFile(file, []byte(`{"metricsPort":9091}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[int]int{0: 9091, 5: 5} {
		conf, err := (&Options{Config: file, MetricsPort: flag}).configuration()
		if err != nil || *conf.MetricsPort != want {
			t.Errorf("--metrics-port=%d: %+v, %v", flag, conf, err)
		}
	}
}

// TestCallsMultus checks whether the runtime calls Multus, by what its configuration directory has (behaviour F73).
func TestCallsMultus(t *testing.T) {
	t.Parallel()
	own := `{"cniVersion":"1.0.0","name":"multus-cni-network","type":"multus-shim"}`
	other := `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"ptp"}]}`
	chained := `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"ptp"},{"type":"multus-shim"}]}`
	for name, tc := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"nothing":        {nil, false},
		"ours":           {map[string]string{"00-multus.conf": own, "10-a.conflist": other}, true},
		"another first":  {map[string]string{"00-a.conflist": other, "00-multus.conf": own}, false},
		"an invalid one": {map[string]string{"00-a.conflist": "{", "00-multus.conf": own}, true},
		"another file":   {map[string]string{"00-a.txt": other, "00-multus.conf": own}, true},
		"in a chain":     {map[string]string{"05-a.conflist": chained}, true},
	} {
		dir := t.TempDir()
		for file, text := range tc.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := callsMultus(dir, "multus-shim"); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if callsMultus(filepath.Join(t.TempDir(), "gone"), "") {
		t.Error("a directory that does not exist")
	}
}

// TestIgnoredKeysAreLogged checks that a key without effect is logged.
func TestIgnoredKeysAreLogged(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	file := filepath.Join(dir, "c.json")
	text := fmt.Sprintf(`{"networksDir":%q,"socketDir":"/dev/null/multus","connectionLimit":1,"logFile":%q,"logToStderr":false}`, dir, filepath.Join(dir, "log"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = Run(t.Context(), Options{Config: file, Getenv: func(string) string { return "" }})
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if n := strings.Count(string(log), "connectionLimit has no effect"); err != nil || n != 1 {
		t.Errorf("the log says it %d times (%v):\n%s", n, err, log)
	}
}

// TestEvents checks that the key events of the daemon's file reaches the place where events are written (behaviour
// O65).
func TestEvents(t *testing.T) {
	t.Parallel()
	for events, want := range map[string]bool{"each": true, "none": false} {
		dir := t.TempDir()
		conf, err := config.ParseDaemon(fmt.Appendf(nil, `{"networksDir":%q,"socketDir":%[1]q,"events":%[2]q}`, dir, events))
		if err != nil {
			t.Fatal(err)
		}
		s, err := connect(conf, "node-a", os.Getenv, slog.New(slog.DiscardHandler))
		if err == nil {
			err = s.Cluster.Emit(t.Context(), request.Pod{Namespace: "n", Name: "p"}, publish.Event{Type: publish.Normal})
		}
		if err != nil {
			t.Fatal(err)
		}
		written, err := filepath.Glob(filepath.Join(dir, "status", "*.events.jsonl"))
		if err != nil || (len(written) > 0) != want {
			t.Errorf("events %q: written: %q, %v", events, written, err)
		}
	}
}
