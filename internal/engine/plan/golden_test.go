package plan_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/source/file"
	wirev1 "multus/wire/v1"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// TestGolden makes the plan of each archive in testdata and compares it with the plan in the archive.
//
// The comment of an archive cites the rules that it tests. A line "known: …" in it says that the code does not follow
// them yet. The test is then skipped, and it fails once the code follows the rules. The files of an archive:
//
//	request.json      members of setup; all have a default
//	conf.json         the CNI configuration, overlaid on defaultConf; null removes a default
//	pod.yaml          the pod; or annotations.json, the annotations of web-0 in team-a; an empty pod.yaml is no pod
//	networks.yaml     the network definitions
//	devices.json      resource -> IDs
//	attached.json     what the sandbox has, as a list of plan.Attached: Diff is tested instead of Plan
//	files/...         files of the node; $DIR is the directory of the archive
//	plan.json         golden: the plan
//	changes.txt       golden: the changes of a running sandbox
//	error.txt         golden: the error
//	reported.txt      golden: events for missing definitions, and log lines
func TestGolden(t *testing.T) {
	t.Parallel()
	rule := regexp.MustCompile(`\b[A-Z]\d{1,3}\b`)
	eachArchive(t, func(path string, a *archive) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			if !rule.MatchString(a.comment) {
				t.Error("the comment cites no rule")
			}
			run(t, path, a)
		})
	})
}

var golden = []string{"plan.json", "changes.txt", "error.txt", "reported.txt"}

func run(t *testing.T, path string, a *archive) {
	t.Helper()
	_, known, _ := strings.Cut(a.comment, "known: ")
	want, got := map[string]string{}, newBench(t, a).outcome(t)
	inputs := a.files[:0:0]
	for _, f := range a.files {
		if slices.Contains(golden, f.name) {
			want[f.name] = f.data
			continue
		}
		inputs = append(inputs, f)
	}
	diff := cmp.Diff(want, got)
	switch {
	case known != "" && diff != "":
		t.Skip("known: " + strings.TrimSpace(known))
	case known != "":
		t.Error("the code follows the rule now: remove the line \"known:\"")
	case diff != "" && *update:
		a.files = inputs
		for _, name := range golden {
			if data, ok := got[name]; ok {
				a.files = append(a.files, member{name, data})
			}
		}
		if err := os.WriteFile(path, a.format(), 0o644); err != nil {
			t.Fatal(err)
		}
	case diff != "":
		t.Errorf("(-want +got); go test -update accepts what it got:\n%s", diff)
	}
}

// setup is the content of request.json.
type setup struct {
	Command     string `json:"command"`
	ContainerID string `json:"containerID"`
	Netns       string `json:"netns"`
	IfName      string `json:"ifName"`
	Args        string `json:"args"`
	Path        string `json:"path"`
	// Sources says which sources exist: "all", "no pods", "none" or "down".
	Sources string `json:"sources"`
}

const defaultConf = `{
	"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus",
	"clusterNetwork": "$DIR/files/cluster.conf", "confDir": "$DIR/files/conf.d"
}`

const defaultCluster = `{"cniVersion": "1.0.0", "name": "cbr0", "type": "bridge"}`

// bench is one unpacked archive.
type bench struct {
	dir      string
	req      *request.Request
	conf     *config.Plugin
	resolver *plan.Resolver
	reported *bytes.Buffer
	// attached is nil unless Diff is tested.
	attached []plan.Attached
}

func newBench(tb testing.TB, a *archive) *bench {
	tb.Helper()
	b := &bench{dir: tb.TempDir(), reported: &bytes.Buffer{}}
	files := map[string]string{"files/cluster.conf": defaultCluster}
	for _, f := range a.files {
		files[f.name] = strings.ReplaceAll(f.data, "$DIR", b.dir)
	}
	if _, ok := files["pod.yaml"]; !ok {
		files["pod.yaml"] = "{kind: Pod, apiVersion: v1, metadata: {name: web-0, namespace: team-a, uid: uid-web-0, " +
			"annotations: " +
			strings.TrimSpace(cmpOr(files["annotations.json"], "{}")) + "}}\n"
	}
	b.unpack(tb, files)
	s := setup{
		Command: request.Add, ContainerID: "c0ffee", Netns: "/run/netns/test", IfName: "eth0", Path: "/opt/cni/bin",
		Sources: "all",
		Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=team-a;K8S_POD_NAME=web-0;" +
			"K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=uid-web-0",
	}
	decode(tb, cmpOr(files["request.json"], "{}"), &s)
	args, err := request.ParseArgs(s.Args)
	if err != nil {
		tb.Fatal(err)
	}
	b.req = &request.Request{
		Command: s.Command, ContainerID: s.ContainerID, Netns: s.Netns, IfName: s.IfName, Path: s.Path, Args: args,
		Config: b.config(tb, cmpOr(files["conf.json"], "{}")),
	}
	if b.conf, err = config.ParsePlugin(b.req.Config); err != nil {
		tb.Fatal(err)
	}
	b.sources(tb, s.Sources, files["devices.json"])
	if attached, ok := files["attached.json"]; ok {
		decode(tb, attached, &b.attached)
	}
	return b
}

func cmpOr(s, or string) string {
	if strings.TrimSpace(s) == "" {
		return or
	}
	return s
}

func decode(tb testing.TB, s string, v any) {
	tb.Helper()
	dec := json.NewDecoder(strings.NewReader(s))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		tb.Fatalf("%v in %s", err, s)
	}
}

// unpack writes the files. API objects go to a directory of their own.
func (b *bench) unpack(tb testing.TB, files map[string]string) {
	tb.Helper()
	for name, data := range files {
		if name == "pod.yaml" || name == "networks.yaml" {
			name = "objects/" + name
		}
		path := filepath.Join(b.dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(data), 0o644)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// config overlays the default configuration with the archive's.
func (b *bench) config(tb testing.TB, over string) []byte {
	tb.Helper()
	conf, members := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	decode(tb, strings.ReplaceAll(defaultConf, "$DIR", b.dir), &conf)
	decode(tb, over, &members)
	maps.Copy(conf, members)
	maps.DeleteFunc(conf, func(_ string, v json.RawMessage) bool { return string(v) == "null" })
	out, err := json.Marshal(conf)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func (b *bench) sources(tb testing.TB, which, devices string) {
	tb.Helper()
	log := slog.New(slog.NewTextHandler(b.reported, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	b.resolver = &plan.Resolver{Log: log, Missing: func(_ string, pod *plan.Pod, m *plan.MissingNetworkError) {
		fmt.Fprintf(b.reported, "event for pod %s uid %q: %v\n", pod.Ref, pod.UID, m)
	}}
	source := file.New(file.Options{Dir: filepath.Join(b.dir, "objects")})
	switch which {
	case "all":
		b.resolver.Networks, b.resolver.Pods = source, source
	case "no pods":
		b.resolver.Networks = source
	case "none":
	case "down":
		b.resolver.Networks, b.resolver.Pods = down{}, down{}
	default:
		tb.Fatalf("sources %q", which)
	}
	if devices != "" {
		ids := map[string][]string{}
		decode(tb, devices, &ids)
		b.resolver.Devices = given(ids)
	}
}

// given returns the same devices for every pod.
type given map[string][]string

func (g given) Devices(context.Context, plan.Ref, string) (*plan.Allocation, error) {
	return &plan.Allocation{IDs: g}, nil
}

// down is an API server that is not reachable.
type down struct{}

var errDown = fmt.Errorf("%w: connection refused", plan.ErrUnavailable)

func (down) Network(context.Context, plan.Ref) (*plan.Definition, error) { return nil, errDown }
func (down) Pod(context.Context, plan.Ref) (*plan.Pod, error)            { return nil, errDown }

// outcome makes the plan and returns its golden files, with the path of the directory replaced.
func (b *bench) outcome(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	if b.attached != nil {
		b.diff(t, out)
	} else if p, err := b.resolver.Plan(t.Context(), b.req, b.conf); err != nil {
		if p != nil {
			t.Error("a plan and an error")
		}
		out["error.txt"] = errorText(t, err)
	} else {
		out["plan.json"] = string(encode(t, p))
		b.checkRoundTrip(t, p)
	}
	if b.reported.Len() > 0 {
		out["reported.txt"] = b.reported.String()
	}
	for name, data := range out {
		out[name] = strings.ReplaceAll(data, b.dir, "$DIR")
	}
	return out
}

func errorText(t *testing.T, err error) string {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Errorf("not a fault: %v", err)
		f = &fault.Error{}
	}
	return fmt.Sprintf("code: %d\nmsg: %s\nnext: %s\n", f.Code, err, f.Next)
}

// diff makes the changes of the sandbox, and adds their golden file to out.
func (b *bench) diff(t *testing.T, out map[string]string) {
	t.Helper()
	c, err := b.resolver.Diff(t.Context(), b.req, b.conf, b.attached)
	if err != nil {
		if c != nil {
			t.Error("changes and an error")
		}
		out["error.txt"] = errorText(t, err)
		return
	}
	var s strings.Builder
	for _, i := range c.Remove {
		fmt.Fprintf(&s, "remove %s %s\n", b.attached[i].IfName, b.attached[i].Name)
	}
	for _, u := range c.Refused {
		fmt.Fprintf(&s, "refuse %s %s\n%s", u.IfName, u.Name, errorText(t, u.Err))
	}
	for _, i := range c.Ignored {
		fmt.Fprintf(&s, "ignore %s %s %v\n", i.IfName, i.Name, i.Keys)
	}
	if c.Stale {
		s.WriteString("stale\n")
	}
	if len(c.Add) > 0 {
		added := encode(t, &plan.Plan{Pod: c.Pod, Attachments: c.Add})
		fmt.Fprintf(&s, "add\n%s", added)
	}
	out["changes.txt"] = s.String()
}

// shown is an attachment with its indented configuration at the end.
type shown struct {
	wirev1.Attachment
	Config json.RawMessage `json:"config"`
}

// encode returns a plan in the form of the golden files: the message to the plugin, indented.
func encode(tb testing.TB, p *plan.Plan) []byte {
	tb.Helper()
	view := struct {
		wirev1.Plan
		Attachments []shown `json:"attachments"`
	}{Plan: *wirev1.FromPlan(p)}
	for _, a := range view.Plan.Attachments {
		view.Attachments = append(view.Attachments, shown{a, a.Config.Bytes()})
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(view); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// checkRoundTrip checks that the plugin gets the plan that the daemon made, and that libcni accepts each configuration
// in it.
func (b *bench) checkRoundTrip(t *testing.T, p *plan.Plan) {
	t.Helper()
	sent, err := json.Marshal(wirev1.FromPlan(p))
	if err != nil {
		t.Fatal(err)
	}
	msg := &wirev1.Plan{}
	if err := json.Unmarshal(sent, msg); err != nil {
		t.Fatalf("decode the plan: %v", err)
	}
	received := msg.ToPlan()
	if diff := cmp.Diff(string(encode(t, p)), string(encode(t, received))); diff != "" {
		t.Errorf("the plan changes on the wire (-sent +received):\n%s", diff)
	}
	for i, a := range received.Attachments {
		if diff := cmp.Diff(string(p.Attachments[i].Config.Bytes()), string(a.Config.Bytes())); diff != "" {
			t.Errorf("network %s: the configuration changes on the wire (-sent +received):\n%s", a.Name, diff)
		}
		if _, err := a.Config.Libcni(); err != nil {
			t.Errorf("network %s: libcni refuses the configuration: %v", a.Name, err)
		}
	}
}
