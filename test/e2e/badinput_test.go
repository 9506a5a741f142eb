package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
	wirev1 "multus/wire/v1"
)

// longest bounds the length of an error message, which people have to read.
const longest = 700

// raw runs the plugin as a runtime does, with the given standard input and CNI_ARGS.
func (s *site) raw(t *testing.T, kind node.Kind, p *node.Pod, command, stdin, args string) (*types.Error, error) {
	t.Helper()
	name := map[node.Kind]string{node.Thin: "multus", node.Thick: "multus-shim"}[kind]
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.BinDirs[0], name))
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.ContainerID, "CNI_NETNS=" + p.Path, "CNI_IFNAME=eth0",
		"CNI_PATH=" + strings.Join(s.BinDirs, ":"), "CNI_ARGS=" + args,
	}
	cmd.Stdin = strings.NewReader(stdin)
	var out []byte
	var err error
	s.Do(t, func() { out, err = cmd.Output() })
	if err == nil {
		return nil, nil //nolint:nilnil // no error object is what success gives
	}
	ce := &types.Error{}
	if jerr := json.Unmarshal(out, ce); jerr != nil {
		return nil, fmt.Errorf("no CNI error object on standard output: %q: %w", out, errors.Join(err, jerr))
	}
	return ce, nil
}

// TestBadInput checks that malformed input results in one readable CNI error with the object, its owner and the next
// step. Nothing is attached, nothing is left, and the daemon keeps running (multus-cni#635, multus-cni#302).
func TestBadInput(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newSite(t, kind, node.Options{})
			for name, config := range map[string]string{
				"nojson": `{"cniVersion": `, "null": `null`, "text": `"x"`, "notype": `{"cniVersion":"1.0.0"}`,
				"noplugins": `{"plugins":[]}`,
				"oddargs":   `{"cniVersion":"1.0.0","type":"bridge","args":"x"}`,
				"nobinary":  `{"cniVersion":"1.0.0","type":"no-such-plugin"}`,
				"slash":     `{"cniVersion":"1.0.0","type":"../bridge"}`,
			} {
				s.api.CreateNetwork(t, s.ns, name, config, nil)
			}
			good := string(s.Conf())
			with := func(key string, value any) string {
				var m map[string]any
				if err := json.Unmarshal([]byte(good), &m); err != nil {
					t.Fatal(err)
				}
				m[key] = value
				b, err := json.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			}
			pod := "<pod>" // replaced by namespace/name
			for _, tc := range []struct {
				name     string
				stdin    string // "" for the valid configuration
				args     string // "" for the usual arguments
				networks string
				names    []string // what the message must contain
			}{
				{name: "configuration-no-json", stdin: `{ not json`, names: []string{"config"}},
				{name: "configuration-empty", stdin: " ", names: []string{"config"}},
				{name: "configuration-list", stdin: `[]`, names: []string{"config"}},
				{name: "configuration-types", stdin: with("namespaceIsolation", "yes"), names: []string{"namespaceIsolation"}},
				{
					name: "configuration-nothing", stdin: with("clusterNetwork", ""),
					names: []string{"delegate/clusterNetwork", "multus-cni-network"},
				},
				{
					name: "cluster-file-missing", stdin: with("clusterNetwork", "/nowhere/10-x.conflist"),
					names: []string{"/nowhere/10-x.conflist", pod},
				},
				{name: "cluster-name-missing", stdin: with("clusterNetwork", "nowhere"), names: []string{"nowhere", pod}},
				{name: "args-no-pair", args: "IgnoreUnknown=1;K8S_POD_NAME", names: []string{"CNI_ARGS", "K8S_POD_NAME"}},
				{name: "args-unknown", args: "FOO=bar", names: []string{"CNI_ARGS", "FOO=bar"}},
				{name: "annotation-no-json", networks: `[{"name": }]`, names: []string{networks, pod}},
				{name: "annotation-null", networks: `[null]`, names: []string{networks, pod}},
				{name: "annotation-object", networks: `{"name":"mac"}`, names: []string{networks, pod}},
				{name: "annotation-slashes", networks: `a/b/c`, names: []string{networks, pod, "a/b/c"}},
				{name: "annotation-mac", networks: `[{"name":"mac","mac":"zz"}]`, names: []string{"mac", "zz", pod}},
				{name: "annotation-ip", networks: `[{"name":"mac","ips":["1.2.3"]}]`, names: []string{"1.2.3", pod}},
				{
					name: "annotation-route", networks: `[{"name":"mac","default-route":["x"]}]`,
					names: []string{"default-route", pod},
				},
				{
					name: "annotation-ifname", networks: `[{"name":"mac","interface":"a-name-that-is-too-long"}]`,
					names: []string{"a-name-that-is-too-long", pod},
				},
				{name: "annotation-ifname-twice", networks: `mac@x,br@x`, names: []string{"x", "mac", "br", pod}},
				{name: "annotation-ifname-eth0", networks: `mac@eth0`, names: []string{"eth0", "mac", pod}},
				{name: "network-missing", networks: `nope`, names: []string{"(nope)", s.ns, pod}},
				{name: "network-no-json", networks: `nojson`, names: []string{"nojson", pod}},
				{name: "network-null", networks: `null`, names: []string{s.ns + "/null", pod}},
				{name: "network-text", networks: `text`, names: []string{s.ns + "/text", pod}},
				{name: "network-no-type", networks: `notype`, names: []string{s.ns + "/notype", "type", pod}},
				{name: "network-no-plugins", networks: `noplugins`, names: []string{s.ns + "/noplugins", pod}},
				{
					name: "network-odd-args", networks: `[{"name":"oddargs","cni-args":{"a":1}}]`,
					names: []string{s.ns + "/oddargs", "args", pod},
				},
				{
					name: "plugin-missing", networks: `mac,nobinary`,
					names: []string{"no-such-plugin", "nobinary", s.BinDirs[1], pod},
				},
				{name: "plugin-path", networks: `slash`, names: []string{"../bridge", "slash", pod}},
			} {
				t.Run(tc.name, func(t *testing.T) {
					p := s.pod(t, tc.name, map[string]string{networks: tc.networks}, false)
					args := tc.args
					if args == "" {
						args = fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s", s.ns, tc.name, p.ContainerID, p.UID)
					}
					stdin := tc.stdin
					if stdin == "" {
						stdin = good
					}
					ce, err := s.raw(t, kind, p, "ADD", stdin, args)
					if err != nil || ce == nil {
						t.Fatalf("got %v, %v, want a CNI error", ce, err)
					}
					t.Logf("%d %s; %s", ce.Code, ce.Msg, ce.Details)
					if strings.ContainsAny(ce.Msg, "\n\r") || len(ce.Msg) > longest {
						t.Errorf("not one readable line (%d characters): %s", len(ce.Msg), ce.Msg)
					}
					for _, want := range tc.names {
						if want = strings.ReplaceAll(want, pod, s.ns+"/"+tc.name); !strings.Contains(ce.Msg, want) {
							t.Errorf("the message does not name %q: %s", want, ce.Msg)
						}
					}
					if left := testnet.Interfaces(t, p.NS); len(left) > 0 {
						t.Errorf("attached: %v", left)
					}
					if ce, err := s.raw(t, kind, p, "DEL", good, args); ce != nil || err != nil {
						t.Errorf("DEL: %v, %v", ce, err)
					}
					if left := s.Left(t); len(left) > 0 {
						t.Errorf("left: %v", left)
					}
				})
			}
			s.works(t)
		})
	}
}

// works checks that a valid pod can still be attached and detached.
func (s *site) works(t *testing.T) {
	t.Helper()
	p := s.pod(t, "good", map[string]string{networks: "mac"}, false)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
	}
	s.delete(t, p)
}

// TestBadWire checks that the daemon answers any data on its socket with a CNI error, or closes the connection, and
// keeps running.
func TestBadWire(t *testing.T) {
	s := newSite(t, node.Thick, node.Options{})
	socket := filepath.Join(s.SocketDir(), "multus.sock")
	send := func(t *testing.T, text string) string {
		t.Helper()
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
			t.Fatal(err)
		}
		// The daemon may close the connection before it has read everything.
		if _, err := io.WriteString(c, text); err != nil && !errors.Is(err, syscall.EPIPE) {
			t.Fatal(err)
		}
		_ = c.(*net.UnixConn).CloseWrite()
		b, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		return string(b)
	}
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path,
			len(body), body)
	}
	for name, tc := range map[string]struct{ text, answer string }{
		"no HTTP":        {"\x00\x01\x02\r\n\r\n", "400"},
		"plan no JSON":   {post(wirev1.PathPlan, "{"), `"code":6`},
		"plan null":      {post(wirev1.PathPlan, "null"), `"code":`},
		"plan array":     {post(wirev1.PathPlan, "[]"), `"code":6`},
		"plan no config": {post(wirev1.PathPlan, `{"command":"ADD"}`), `"code":6`},
		"plan config":    {post(wirev1.PathPlan, `{"command":"ADD","config":"bnVsbA=="}`), `"code":`},
		"plan args":      {post(wirev1.PathPlan, `{"args":[["a"]],"config":"e30="}`), `"code":`},
		"report no JSON": {post(wirev1.PathReport, "}"), `"code":6`},
		"report result": {post(wirev1.PathReport,
			`{"pod":{"namespace":"x","name":"y","uid":"z"},"attached":[{"name":"n","result":7}]}`), "200"},
		"report no UID": {
			post(wirev1.PathReport, `{"pod":{"namespace":"x","name":"y"},"attached":[{"name":"n","result":{}}]}`),
			`"code":6`,
		},
		"wrong method": {"GET " + wirev1.PathPlan + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"},
		"other path":   {post("/cni", "{}"), "404"},
		"half a body":  {"POST " + wirev1.PathPlan + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := send(t, tc.text); !strings.Contains(got, tc.answer) {
				t.Errorf("got %q, want %q in it", got, tc.answer)
			}
		})
	}
	t.Run("a megabyte of nothing", func(t *testing.T) {
		if got := send(t, post(wirev1.PathPlan, string(bytes.Repeat([]byte("["), 1<<20)))); strings.Contains(got, "200") {
			t.Errorf("got %.200q", got)
		}
	})
	s.works(t)
}
