package errtable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/host/plugin"
	"multus/internal/host/thin"
	"multus/internal/testutil/leak"
)

// asPlugin is the environment variable that makes this binary a plugin.
const asPlugin = "ERRTABLE_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		os.Exit(plugin.Run(os.Args[:1], os.Stdout, plugin.Thick()))
	}
	leak.Main(m)
}

// elsewhere maps the message of an entry to the test that produces it, if that is possible only inside a package.
var elsewhere = map[string]struct{ file, test string }{
	"network <network> of pod <pod>: CNI does not accept its configuration": {
		"../../internal/engine/attach_test.go", "TestAdd",
	},
	"decode request <path>":         {"../../internal/agent/planserver/refuse_test.go", "TestRefuse"},
	"pod <pod>":                     {"../../internal/agent/planserver/refuse_test.go", "TestRefuse"},
	"wait to decode request <path>": {"../../internal/agent/planserver/limits_test.go", "TestLargePlans"},
	"wait to make a plan with <bytes> bytes of configurations": {
		"../../internal/agent/planserver/limits_test.go",
		"TestLargePlans",
	},
}

// TestEveryRow checks that every error of the catalogue can be produced with its code and advice: by a golden plan, by
// the functions below, or by the test in elsewhere.
func TestEveryRow(t *testing.T) {
	had := goldens(t)
	for _, tc := range slices.Concat(parsing(), planning(), hosts(t), engines(t), delegates()) {
		err := tc.make(t)
		if err == nil {
			t.Errorf("%s: no error", tc.name)
			continue
		}
		had = append(had, fault.ToCNI(err))
	}
	unfilled := placeholders()
	for _, ce := range had {
		if text := ce.Msg + ce.Details; strings.Contains(text, "%!") || slices.ContainsFunc(unfilled, func(p string) bool {
			return strings.Contains(text, p)
		}) {
			t.Errorf("arguments and placeholders differ: %q, advice %q", ce.Msg, ce.Details)
		}
		if strings.ContainsAny(ce.Msg+ce.Details, "\n\r") || strings.Count(ce.Msg, "Multus: ") > 1 ||
			rawBytes.MatchString(ce.Msg) {
			t.Errorf("not a readable line: %q", ce.Msg)
		}
	}
	for _, e := range fault.Catalogue() {
		made := slices.ContainsFunc(had, func(ce *types.Error) bool { return matches(&e, ce) })
		if !made && !isMadeElsewhere(t, &e) {
			t.Errorf("no case produces code %d: %q, advice %q", e.Code, e.Message, e.Next)
		}
	}
}

// placeholders returns the placeholders of the catalogue.
func placeholders() (all []string) {
	for _, e := range fault.Catalogue() {
		all = append(all, regexp.MustCompile(`<[^>]+>`).FindAllString(e.Message+e.Next, -1)...)
	}
	return all
}

// rawBytes matches a []byte as fmt prints it.
var rawBytes = regexp.MustCompile(`\[\d{1,3}( \d{1,3}){3,}\]`)

// matches reports whether an error belongs to an entry. Another error may have wrapped it and added text in front.
func matches(e *fault.Entry, ce *types.Error) bool {
	message := pattern(e.Message)
	if e.Wraps {
		message += ": .+"
	}
	return (ce.Code == e.Code || e.MayPass && ce.Code == fault.TryAgain) &&
		regexp.MustCompile(`^(.*: )?`+message+`$`).MatchString(ce.Msg) &&
		regexp.MustCompile(`^`+pattern(e.Next)+`(; request \S+)?$`).MatchString(ce.Details)
}

// blank matches a placeholder. In a list each item is quoted.
var blank = regexp.MustCompile(`"?<[^>]*>"?`)

func pattern(text string) string {
	return blank.ReplaceAllString(regexp.QuoteMeta(text), ".*")
}

// joined matches the place where a string literal continues on the next line.
var joined = regexp.MustCompile(`" \+\n\t*"`)

// isMadeElsewhere reports whether the test in elsewhere has the fixed part of the message and the advice.
func isMadeElsewhere(t *testing.T, e *fault.Entry) bool {
	t.Helper()
	by, ok := elsewhere[e.Message]
	if !ok {
		return false
	}
	b, err := os.ReadFile(by.file)
	if err != nil {
		t.Error(err)
	}
	source := joined.ReplaceAllString(string(b), "")
	fixed, _, _ := strings.Cut(e.Message, "<")
	return strings.Contains(source, "func "+by.test+"(") && strings.Contains(source, fixed) &&
		strings.Contains(source, e.Next)
}

// goldens returns the errors of the golden plans and of the golden changes of running pods, which the tests of package
// plan compare.
func goldens(t *testing.T) []*types.Error {
	t.Helper()
	paths, err := filepath.Glob("../../internal/engine/plan/testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	golden := regexp.MustCompile(`(?m)^(?:-- error.txt --|refuse .*)\ncode: (\d+)\nmsg: ((?s:.*?))\nnext: (.*)$`)
	var out []*types.Error
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range golden.FindAllStringSubmatch(string(b), -1) {
			code, err := strconv.ParseUint(m[1], 10, 0)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			out = append(out, fault.ToCNI(&fault.Error{Code: uint(code), Next: m[3], Msg: m[2]}))
		}
	}
	const least = 40
	if len(out) < least {
		t.Errorf("%d golden errors, want at least %d", len(out), least)
	}
	return out
}

// produced is one way to produce an error.
type produced struct {
	name string
	make func(t *testing.T) error
}

// parsing returns the errors of input that cannot be parsed.
func parsing() []produced {
	return []produced{
		{"configuration", func(*testing.T) error { _, err := config.ParsePlugin([]byte("{")); return err }},
		{"daemon's configuration", func(*testing.T) error { _, err := config.ParseDaemon([]byte("{")); return err }},
		{"daemon's limit", func(*testing.T) error {
			_,
				err := config.ParseDaemon([]byte(`{"connectionLimit":0}`))
			return err
		}},
		{"daemon's version", func(*testing.T) error { return (&config.Daemon{CNIVersion: "1.2.0"}).Usable() }},
		{"daemon's checkNetworks", func(*testing.T) error { return (&config.Daemon{CheckNetworks: "al"}).Usable() }},
		{"daemon's repair", func(*testing.T) error { return (&config.Daemon{Repair: "delete"}).Usable() }},
		{"daemon's events", func(*testing.T) error { return (&config.Daemon{Events: "all"}).Usable() }},
		{"events", func(*testing.T) error { return (&config.Plugin{Events: "all"}).Usable() }},
		{"version", func(*testing.T) error { return (&config.Plugin{CNIVersion: "1.2.0"}).Usable() }},
		{"CNI_ARGS pair", func(*testing.T) error { _, err := request.ParseArgs("a"); return err }},
		{"CNI_ARGS unknown", func(*testing.T) error {
			_,
				err := request.ParseArgs("IgnoreUnknown=0;COLOUR=red")
			return err
		}},
	}
}

// noDevices is a kubelet that does not answer, and a network that needs a device.
type noDevices struct{}

func (noDevices) Devices(context.Context, plan.Ref, string) (*plan.Allocation, error) {
	return nil, errors.New("connection refused")
}

func (noDevices) Network(_ context.Context, ref plan.Ref) (*plan.Definition, error) {
	return &plan.Definition{Ref: ref, ResourceName: "vendor.example/nic", Config: `{"cniVersion":"1.0.0","type":"x"}`}, nil
}

// noClaims are the devices of a pod that has none.
type noClaims struct{}

func (noClaims) Devices(context.Context, plan.Ref, string) (*plan.Allocation, error) {
	return &plan.Allocation{}, nil
}

// planning returns errors that golden plans cannot produce, because their kubelet always answers.
func planning() []produced {
	return []produced{{"kubelet unavailable", func(t *testing.T) error {
		t.Helper()
		conf, err := config.ParsePlugin([]byte(`{"delegates":[{"cniVersion":"1.0.0","name":"c","type":"c"}],
			"runtimeConfig":{"` + config.PodAnnotations + `":{"k8s.v1.cni.cncf.io/networks":"dev"}}}`))
		if err != nil {
			return err
		}
		r := &plan.Resolver{Networks: noDevices{}, Devices: noDevices{}, Log: slog.New(slog.DiscardHandler)}
		_, err = r.Plan(t.Context(), podRequest("c1"), conf)
		return err
	}}, {"no device of a claim", func(t *testing.T) error {
		t.Helper()
		conf, err := config.ParsePlugin([]byte(`{"delegates":[{"cniVersion":"1.0.0","name":"c","type":"c"}],"runtimeConfig":{"` +
			config.PodAnnotations + `":{"k8s.v1.cni.cncf.io/networks":"[{\"name\":\"dev\",\"resourceClaim\":{\"name\":\"nic\"}}]"}}}`))
		if err != nil {
			return err
		}
		r := &plan.Resolver{Networks: noDevices{}, Devices: noClaims{}, Log: slog.New(slog.DiscardHandler)}
		_, err = r.Plan(t.Context(), podRequest("c1"), conf)
		return err
	}}, {"large configurations", func(t *testing.T) error {
		t.Helper()
		large := `{"cniVersion":"1.0.0","name":"c","type":"c","x":"` + strings.Repeat("x", plan.MaxBytes) + `"}`
		conf, err := config.ParsePlugin(
			[]byte(`{"delegates":[` + large + `],"runtimeConfig":{"` + config.PodAnnotations + `":{}}}`))
		if err != nil {
			return err
		}
		_, err = (&plan.Resolver{Log: slog.New(slog.DiscardHandler)}).Plan(t.Context(), podRequest("c1"), conf)
		return err
	}}}
}

// answering starts a daemon that gives the same answer to every request.
func answering(t *testing.T, answer string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mt") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, config.SocketName)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
			_, _ = w.Write([]byte(answer))
		}),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	return socket
}

func podRequest(container string) *request.Request {
	return &request.Request{
		Command: request.Add, ContainerID: container, IfName: "eth0",
		Args: request.Args{{request.PodNamespace, "team"}, {request.PodName, "web-0"}, {request.PodUID, "u"}},
	}
}

// hosts returns the errors that plugins detect before the engine runs.
func hosts(t *testing.T) []produced {
	t.Helper()
	connect := func(h plugin.Host, conf string) func(*testing.T) error {
		return func(t *testing.T) error {
			t.Helper()
			c, err := config.ParsePlugin([]byte(conf))
			if err != nil {
				return err
			}
			_, err = h.Connect(c, slog.New(slog.DiscardHandler)).Plan(t.Context(), podRequest("c1"), c)
			return err
		}
	}
	dir := t.TempDir()
	return []produced{
		{"kubeconfig", connect(thin.Host(), `{"clusterNetwork":"x","kubeconfig":"`+dir+`/none"}`)},
		{"daemon unavailable", connect(plugin.Thick(), `{"clusterNetwork":"x","daemonTimeout":"50ms","daemonSocketDir":"`+dir+`"}`)},
		{"a plan of another container", func(t *testing.T) error {
			t.Helper()
			socket := answering(t, `{"containerID":"c2","attachments":[]}`)
			return connect(plugin.Thick(), `{"clusterNetwork":"x","daemonSocketDir":"`+filepath.Dir(socket)+`"}`)(t)
		}},
		{"called by itself", func(t *testing.T) error {
			t.Helper()
			return run(t, `{"cniVersion":"1.1.0","name":"m","type":"multus-shim"}`, "MULTUS_DEPTH=1")
		}},
	}
}

// run starts this binary as the plugin and returns the error that the runtime gets.
func run(t *testing.T, conf string, env ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append([]string{
		asPlugin + "=1", "CNI_COMMAND=ADD", "CNI_CONTAINERID=" + container, "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0",
		"CNI_PATH=/none",
		"CNI_ARGS=K8S_POD_NAMESPACE=team;K8S_POD_NAME=web-0",
	}, env...)
	cmd.Stdin = strings.NewReader(conf)
	out, err := cmd.Output()
	if err == nil {
		return nil
	}
	ce := &types.Error{}
	if jerr := decode(out, ce); jerr != nil {
		return fmt.Errorf("%w: %w: %s", err, jerr, out)
	}
	return ce
}
