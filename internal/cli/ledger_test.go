package cli

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
)

// call runs a command line in this process.
func call(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), Env{
		Args: append([]string{"multusctl"}, args...), Getenv: func(k string) string { return env[k] },
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
	})
	return code, out.String(), errs.String()
}

// recordSandbox records a sandbox with the cluster network and one more network.
func recordSandbox(t *testing.T, dir, container, pod, netns string) {
	t.Helper()
	list := func(conf string) *cniconf.List {
		l, err := cniconf.Parse([]byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	args := request.Args{{request.PodNamespace, "team-a"}, {request.PodName, pod}, {request.PodUID, "uid-" + pod}}
	s := &ledger.Store{Dir: dir, Log: slog.New(slog.DiscardHandler)}
	err := s.Write(&ledger.Record{ContainerID: container, Netns: netns, Attachments: []ledger.Attachment{
		{
			Name: "cbr0", Primary: true, IfName: "eth0", Args: args,
			Config: list(`{"cniVersion":"1.0.0","name":"cbr0","type":"bridge"}`),
		},
		{
			Name: "team-a/net", IfName: "net1", Args: args,
			Config:        list(`{"cniVersion":"1.0.0","name":"net","type":"macvlan","master":"eth1"}`),
			RuntimeConfig: map[string]json.RawMessage{"mac": json.RawMessage(`"02:00:00:00:00:01"`)},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLedger reads a state directory with a sandbox that exists, one that is gone, and a damaged record. It checks that
// they are distinguished, and that nothing is changed (behaviour D80, D81; multus-cni#1449).
func TestLedger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	recordSandbox(t, dir, "aaaa0000aaaa0000", "web-0", "/proc/self/ns/net")
	recordSandbox(t, dir, "bbbb0000bbbb0000", "web-1", "/nowhere/netns")
	if err := os.WriteFile(filepath.Join(dir, "cccc0000"), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)

	code, out, _ := call(t, nil, "ledger", "ls", "--state-dir", dir)
	want := `CONTAINER      POD           STATE     NETWORKS
aaaa0000aaaa0  team-a/web-0  attached  eth0=cbr0,net1=team-a/net
bbbb0000bbbb0  team-a/web-1  gone      eth0=cbr0,net1=team-a/net
cccc0000       -             unknown   -
`
	if diff := cmp.Diff(want, out); diff != "" || code != OK {
		t.Errorf("%d (-want +got):\n%s", code, diff)
	}
	for _, name := range []string{"aaaa", "team-a/web-0"} {
		code, out, _ = call(t, nil, "ledger", "show", name, "--state-dir", dir)
		for _, want := range []string{
			"container aaaa0000aaaa0000", "uid-web-0", "2. net1: team-a/net (macvlan)",
			`"master": "eth1"`, `runtimeConfig.mac = "02:00:00:00:00:01"`,
		} {
			if !strings.Contains(out, want) || code != OK {
				t.Errorf("%d: no %q in\n%s", code, want, out)
			}
		}
	}
	if code, _, errs := call(t, nil, "ledger", "show", "dddd", "--state-dir", dir); code != Found ||
		!strings.Contains(errs, "multusctl ledger ls") {
		t.Errorf("%d %q", code, errs)
	}
	code, out, _ = call(t, nil, "ledger", "verify", "--state-dir", dir)
	for _, want := range []string{
		"bbbb0000bbbb0000: the network namespace /nowhere/netns is gone",
		"cccc0000: decode record", "3 records, 2 problems",
	} {
		if !strings.Contains(out, want) || code != Found {
			t.Errorf("%d: no %q in\n%s", code, want, out)
		}
	}
	var list struct{ Records []record }
	code, out, _ = call(t, nil, "ledger", "ls", "-o", "json", "--state-dir", dir)
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != OK || len(list.Records) != 3 ||
		list.Records[1].State != stateGone {
		t.Errorf("%d %v\n%s", code, err, out)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("looking has changed something:\n%s", diff)
	}
	if code, out, _ := call(t, nil, "ledger", "verify", "--state-dir", t.TempDir()); code != OK ||
		out != "0 records, 0 problems\n" {
		t.Errorf("%d %q", code, out)
	}
}

// tree returns the contents of the files of a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestColour checks that output is coloured only on a terminal without NO_COLOR.
func TestColour(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(file, []byte("{apiVersion: v1, kind: Pod}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		terminal bool
		noColor  string
		want     bool
	}{{true, "", true}, {true, "1", false}, {false, "", false}} {
		var out bytes.Buffer
		Run(t.Context(), Env{
			Args: []string{"multusctl", "lint", "-f", file}, Getenv: func(string) string { return tc.noColor },
			Terminal: tc.terminal, Stdout: &out, Stderr: &out,
		})
		if got := strings.Contains(out.String(), "\x1b["); got != tc.want {
			t.Errorf("%+v: %q", tc, out.String())
		}
	}
}
