package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBypassed checks which results of the runtime make a record (behaviour R15). The directory is untrusted: no name
// in a result leads out of the state directory.
func TestBypassed(t *testing.T) {
	t.Parallel()
	const list = `{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"bridge"},{"type":"portmap"}]}`
	file := func(kind, container, ifName, network, config string) string {
		return fmt.Sprintf(`{"kind":%q,"containerId":%q,"ifName":%q,"networkName":%q,"netns":"/run/netns/x","config":%q,
			"cniArgs":[["K8S_POD_NAME","web"]],"capabilityArgs":{"portMappings":[{"hostPort":80}]},"result":{}}`, kind, container,
			ifName, network, base64.StdEncoding.EncodeToString([]byte(config)))
	}
	for name, tc := range map[string]struct {
		file, content string
		found         bool
	}{
		"a result":                {"cbr0-c1-eth0", file("cniCacheV1", "c1", "eth0", "cbr0", list), true},
		"of Multus":               {"m-c1-eth0", file("cniCacheV1", "c1", "eth0", "m", `{"name":"m","type":"multus"}`), false},
		"of another container":    {"cbr0-c1-eth0", file("cniCacheV1", "c2", "eth0", "cbr0", list), false},
		"of another interface":    {"cbr0-c1-eth0", file("cniCacheV1", "c1", "eth1", "cbr0", list), false},
		"of another kind":         {"cbr0-c1-eth0", file("x", "c1", "eth0", "cbr0", list), false},
		"not JSON":                {"cbr0-c1-eth0", `{`, false},
		"a network that is a way": {"cbr0-c1-eth0", file("cniCacheV1", "c1", "eth0", "../../x", list), false},
		"no configuration":        {"cbr0-c1-eth0", file("cniCacheV1", "c1", "eth0", "cbr0", `{}`), false},
		"another file name":       {"cbr0-c1-eth0.tmp", file("cniCacheV1", "c1", "eth0", "cbr0", list), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, s := t.TempDir(), &Store{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
			if err := os.WriteFile(filepath.Join(dir, tc.file), []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := s.Bypassed(dir, "c1", "eth0")
			if (err == nil) != tc.found {
				t.Fatalf("found: %t, %v", err == nil, err)
			}
			if err == nil {
				adopted(t, s, b)
			}
		})
	}
	s := &Store{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	if _, err := s.Bypassed(t.TempDir(), "c1", "eth0"); !errors.Is(err, ErrNotBypassed) {
		t.Errorf("no result: %v", err)
	}
	if _, err := s.Bypassed(t.TempDir(), "../c1", "eth0"); err == nil || errors.Is(err, ErrNotBypassed) {
		t.Errorf("a container ID that is a way: %v", err)
	}
}

// adopted checks the record of an adopted sandbox.
func adopted(t *testing.T, s *Store, b *Bypassed) {
	t.Helper()
	if err := s.Adopt(b); err != nil {
		t.Fatal(err)
	}
	r, err := s.Read("c1", "eth0")
	if err != nil || r == nil || r.Netns != "/run/netns/x" || len(r.Attachments) != 1 {
		t.Fatalf("record %+v, %v", r, err)
	}
	a := r.Attachments[0]
	got := []any{a.Name, a.IfName, a.Primary, a.Config.Types(), a.Args.Get("K8S_POD_NAME"), string(a.RuntimeConfig["portMappings"])}
	want := []any{"cbr0", "eth0", true, []string{"bridge", "portmap"}, "web", `[{"hostPort":80}]`}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("attachment (-want +got):\n%s", d)
	}
	if !HasResult(s.Dir, "cbr0-c1-eth0") {
		t.Error("the result is not copied")
	}
}

// TestAdoptFollowsNoLink checks that the copy of a runtime's result is not written at the target of a link.
func TestAdoptFollowsNoLink(t *testing.T) {
	t.Parallel()
	elsewhere, s := t.TempDir(), &Store{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	if err := os.Symlink(elsewhere, ResultsDir(s.Dir)); err != nil {
		t.Fatal(err)
	}
	b := &Bypassed{name: "cbr0-c1-eth0", content: []byte("{}"), Record: &Record{
		ContainerID: "c1", Attachments: []Attachment{{
			Name: "cbr0", IfName: "eth0", Primary: true, Config: config(t, `{"cniVersion":"1.0.0","name":"cbr0","type":"bridge"}`),
		}},
	}}
	if err := s.Adopt(b); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(elsewhere); err != nil || len(files) > 0 {
		t.Errorf("written at the target of a link: %v, %v", files, err)
	}
	if !HasResult(s.Dir, b.name) {
		t.Error("the result is not copied")
	}
}
