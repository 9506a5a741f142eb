package cniconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"multus/internal/config"
	"multus/internal/testutil/eventually"
)

// TestVersionFor checks that only a runtime that certainly supports CNI 1.1 gets a configuration of that version.
func TestVersionFor(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"containerd://2.0.0": "1.1.0", "containerd://2.0.5": "1.1.0", "containerd://2.2.9": "1.1.0",
		"containerd://10.0.0": "1.1.0", "containerd://v2.1.4": "1.1.0",
		"containerd://2.1.4-k3s1": "1.1.0", "containerd://2.0.5-k3s1.32": "1.1.0", "containerd://2.0.0-k3s1": "1.1.0",
		"containerd://2.1.4+unknown":          "1.1.0",
		"containerd://2.0.4-0ubuntu1~24.04.1": "1.1.0", "containerd://2.0.2~ds1": "1.1.0", "containerd://2.1.0-rc.0": "1.1.0",
		"containerd://2.0": "1.1.0",
		"cri-o://1.31.0":   "1.1.0", "cri-o://1.31.4-3.rhaos4.18.gitabcdef0.el9": "1.1.0", "cri-o://1.36.0-dev": "1.1.0",
		"cri-o://2.0.0":           "1.1.0",
		"containerd://2.0.0-rc.3": "", "containerd://2.0.0-beta.0": "", "containerd://2.0.0-alpha": "",
		"containerd://2.0-rc1": "", "cri-o://1.31.0-dev": "",
		"containerd://1.7.28": "", "containerd://1.7.23-k3s2": "", "containerd://1.6.33": "", "containerd://0.2.0": "",
		"containerd://1.31.0": "",
		"cri-o://1.30.9":      "", "cri-o://1.4.0": "", "cri-o://0.31.0": "", "cri-o://1.29.6-3.rhaos4.16.git": "",
		"docker://27.3.1": "", "docker://2.0.0": "", "remote://2.0.0": "", "Containerd://2.1.0": "", "crio://1.31.0": "",
		"://2.0.0": "",
		"":         "", "containerd": "", "containerd://": "", "containerd://Unknown": "", "containerd://2": "",
		"containerd://2.x": "", "containerd://-2.0.0": "",
		"containerd://2.0.0 ": "", " containerd://2.0.0": "", "containerd://2.0.0\n": "", "containerd://2.0.0/../x": "",
		"containerd://99999999999999999999.0.0": "",
		"containerd://2.99999999999999999999":   "", "containerd://٢.٠.٠": "", "containerd://containerd://2.0.0": "",
	} {
		if got := VersionFor(version); got != want {
			t.Errorf("%q: %q, want %q", version, got, want)
		}
	}
}

// TestGenerateAuto checks cniVersion auto, which is the default: 1.1.0 if the runtime supports it, and otherwise the
// version of the cluster network. A configured version takes precedence, and so do configured addresses.
func TestGenerateAuto(t *testing.T) {
	t.Parallel()
	const newest, older = "containerd://2.1.4", "containerd://1.7.28"
	const rest = `"name":"multus-cni-network","clusterNetwork":"$FILE","type":"multus-shim","failureEvents":true,"plainPods":"local"`
	caps := `{"capabilities":{"io.kubernetes.cri.pod-annotations":true,"portMappings":true},"cniVersion":`
	for name, tc := range map[string]struct {
		daemon, primary string
		node            Node
		want            string
	}{
		"a new runtime":  {`{}`, flannel, Node{Runtime: newest}, caps + `"1.1.0",` + rest + `}`},
		"auto":           {`{"cniVersion":"auto"}`, flannel, Node{Runtime: newest}, caps + `"1.1.0",` + rest + `}`},
		"an old runtime": {`{"cniVersion":"auto"}`, flannel, Node{Runtime: older}, caps + `"0.3.1",` + rest + `}`},
		"no runtime":     {`{}`, flannel, Node{}, caps + `"0.3.1",` + rest + `}`},
		"a configured version": {
			`{"cniVersion":"0.4.0"}`, flannel,
			Node{Runtime: newest},
			caps + `"0.4.0",` + rest + `}`,
		},
		"force without a version": {
			`{"forceCNIVersion":true}`, flannel,
			Node{Runtime: newest},
			caps + `"1.1.0",` + rest + `}`,
		},
		"network without version": {
			`{}`, strings.Replace(flannel, `"cniVersion":"0.3.1",`, "", 1),
			Node{Runtime: newest},
			caps + `"",` + rest + `}`,
		},
		"addresses of the node": {
			`{}`, flannel,
			Node{Addresses: []string{"192.0.2.1", "2001:db8::1", "node-a"}},
			caps + `"0.3.1",` + rest + `,"nodeAddresses":["192.0.2.1","2001:db8::1"]}`,
		},
		"addresses are configured": {
			`{"nodeAddresses":["192.0.2.9"]}`, flannel,
			Node{Addresses: []string{"192.0.2.1"}},
			caps + `"0.3.1",` + rest + `,"nodeAddresses":["192.0.2.9"]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := config.ParseDaemon([]byte(tc.daemon))
			if err != nil {
				t.Fatal(err)
			}
			dir := directory(t, "10-a.conflist", tc.primary)
			p, err := Choose(dir, "")
			if err != nil {
				t.Fatal(err)
			}
			b, err := generate(d, p, tc.node.Facts())
			if got := strings.ReplaceAll(string(b), p.File, "$FILE"); err != nil || got != tc.want+"\n" {
				t.Errorf("%v\n%s, want\n%s", err, got, tc.want)
			}
		})
	}
}

// TestControllerReadsNode checks that the configuration gets the node's version and addresses once the API server
// answers. Until then it keeps its values, so that it does not change back and forth. A role without the permission is
// logged once.
func TestControllerReadsNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	put(t, dir, "10-a.conflist", primary("a", "a"))
	var answer atomic.Pointer[error]
	var asked atomic.Int32
	start := func(c *fakeClock) (*Controller, *bytes.Buffer, func()) {
		s, log := controllerAt(t, dir, `{}`), &bytes.Buffer{}
		s.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		s.clock = c
		s.Node = func(context.Context) (Node, error) {
			defer asked.Add(1)
			if err := answer.Load(); err != nil {
				return Node{}, *err
			}
			return Node{Runtime: "containerd://2.1.4", Addresses: []string{"192.0.2.1"}}, nil
		}
		return s, log, startController(t, s)
	}
	fail := func(err error) { answer.Store(&err) }

	fail(errors.New("no answer"))
	c := newClock()
	s, log, stop := start(c)
	eventually.Within(t, waitTimeout, "the first configuration", func() bool { return s.Ready() == nil && has(file, `"cniVersion":"1.0.0"`) })
	tries := func(n int32) func() bool {
		return func() bool { return asked.Load() >= n && c.long.Load() >= n }
	}
	for n := range int32(5) {
		eventually.Within(t, waitTimeout, "an attempt", tries(n+1))
		fail(fmt.Errorf("no answer %d", n)) // the errors of an outage differ
		c.Step(lastNodePause)
	}
	answer.Store(nil)
	eventually.Within(t, waitTimeout, "one more attempt", tries(6))
	c.Step(lastNodePause)
	eventually.Within(t, waitTimeout, "the node's", func() bool {
		return has(file, `"cniVersion":"1.1.0"`) &&
			has(file, `"nodeAddresses":["192.0.2.1"]`)
	})
	stop()
	if n := strings.Count(log.String(), "no answer"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	// The API server is unavailable when the daemon restarts: nothing changes.
	fail(errors.New("no answer"))
	was := asked.Load()
	s, _, stop = start(newClock())
	eventually.Within(t, waitTimeout, "an attempt", func() bool { return asked.Load() > was && s.Ready() == nil })
	stop()
	if now, err := os.ReadFile(file); err != nil || string(now) != string(first) {
		t.Errorf("changed without an answer: %s, %v", now, err)
	}

	// The role does not permit it.
	fail(fmt.Errorf("%w: forbidden", ErrNodeUnknown))
	c = newClock()
	_, log, stop = start(c)
	eventually.Within(t, waitTimeout, "the cluster network's",
		func() bool { return has(file, `"cniVersion":"1.0.0"`) && !has(file, "nodeAddresses") })
	was = asked.Load()
	c.Step(nodeInterval)
	eventually.Within(t, waitTimeout, "another attempt", func() bool { return asked.Load() > was })
	stop()
	if n := strings.Count(log.String(), "forbidden"); n != 1 || !strings.Contains(log.String(), "nodeAddresses") {
		t.Errorf("said %d times:\n%s", n, log)
	}
}

// TestNodeIsNotNeeded checks that the node is not read if the configuration has all values.
func TestNodeIsNotNeeded(t *testing.T) {
	t.Parallel()
	for conf, want := range map[string]bool{
		`{"cniVersion":"1.0.0","nodeAddresses":["192.0.2.1"]}`: false, `{"cniVersion":"1.0.0"}`: true,
		`{"nodeAddresses":["192.0.2.1"]}`: true,
		`{"multusConfigFile":"/x"}`:       false,
	} {
		s := controllerAt(t, t.TempDir(), conf)
		if s.needsNode() {
			t.Errorf("%s: sends a request without a cluster", conf)
		}
		s.Node = func(context.Context) (Node, error) { return Node{}, nil }
		if s.needsNode() != want {
			t.Errorf("%s: %v", conf, !want)
		}
	}
	if got := FactsOf([]byte(`{"name":"m","cniVersion":"0.3.1","plugins":[{"type":"multus-shim","cniVersion":"1.1.0","nodeAddresses":["192.0.2.1"]},{"type":"istio-cni"}]}`)); got.Version != "" || !slices.Equal(got.Addresses, []string{"192.0.2.1"}) {
		t.Errorf("of a list: %+v", got)
	}
}

// TestFactsAreLimited checks that invalid addresses and those beyond the limit are left out.
func TestFactsAreLimited(t *testing.T) {
	t.Parallel()
	n := Node{Addresses: append([]string{"node-1", ""}, slices.Repeat([]string{"192.0.2.1"}, 10*maxAddresses)...)}
	if got := n.Facts().Addresses; len(got) != maxAddresses || slices.Contains(got, "node-1") {
		t.Errorf("%d addresses: %.100q", len(got), got)
	}
}
