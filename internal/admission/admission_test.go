package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/lint"
	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

var errUnavailable = fmt.Errorf("x: %w", plan.ErrUnavailable)

// cluster has definitions, pods that use them, and namespaces that are being deleted. A definition with the value
// "unavailable" cannot be read.
type cluster struct {
	definitions map[plan.Ref]string
	users       map[plan.Ref][]plan.Ref
	terminating map[string]bool
	namespaces  error
}

func (c *cluster) Network(_ context.Context, ref plan.Ref) (*plan.Definition, error) {
	switch text, ok := c.definitions[ref]; {
	case !ok:
		return nil, plan.ErrNotFound
	case text == "unavailable":
		return nil, errUnavailable
	default:
		return &plan.Definition{Ref: ref, Config: text}, nil
	}
}

func (c *cluster) All() (out []plan.Definition) {
	for ref, text := range c.definitions {
		out = append(out, plan.Definition{Ref: ref, Config: text})
	}
	return out
}

func (c *cluster) Users(ref plan.Ref, most int) ([]plan.Ref, int) {
	users := c.users[ref]
	return users[:min(most, len(users))], len(users)
}

func (c *cluster) Terminating(_ context.Context, name string) (bool, error) {
	return c.terminating[name], c.namespaces
}

func reviewer(tb testing.TB, c *cluster, conf config.Admission, plugin *config.Plugin) *Reviewer {
	tb.Helper()
	r, err := New(Options{Config: conf, Plugin: plugin, Definitions: c, Attached: c, Namespaces: c})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// nad returns a definition in JSON.
func nad(conf string, annotations map[string]string) []byte {
	b, err := json.Marshal(map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"namespace": "team", "name": "net", "annotations": annotations},
		"spec":     map[string]string{"config": conf},
	})
	if err != nil {
		panic(err)
	}
	return b
}

// podObject returns a pod in JSON.
func podObject(annotations map[string]string) []byte {
	b, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"generateName": "web-", "annotations": annotations},
		"spec": map[string]any{"containers": []any{map[string]string{"name": "app"}}},
	})
	if err != nil {
		panic(err)
	}
	return b
}

// request returns a request about a definition, or about a pod if now is one.
func request(op admissionv1.Operation, old, now []byte) *admissionv1.AdmissionRequest {
	req := &admissionv1.AdmissionRequest{
		UID: "u", Namespace: "team", Name: "net", Operation: op,
		Resource: metav1.GroupVersionResource{
			Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions",
		},
		Object: runtime.RawExtension{Raw: now}, OldObject: runtime.RawExtension{Raw: old},
	}
	if strings.Contains(string(now), `"kind":"Pod"`) {
		req.Name, req.Resource = "", metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	}
	return req
}

// review returns the verdict, and the text of the denial or of the warnings.
func review(tb testing.TB, r *Reviewer, req *admissionv1.AdmissionRequest) (string, string) {
	tb.Helper()
	o, err := r.Review(tb.Context(), req)
	if err != nil {
		tb.Fatal(err)
	}
	if o.UID != req.UID || o.Allowed != (o.Verdict != VerdictDeny) || o.Allowed != (o.Result == nil) {
		tb.Errorf("%+v", o)
	}
	if o.Verdict != VerdictDeny {
		return o.Verdict, strings.Join(o.Warnings, "\n")
	}
	return o.Verdict, o.Result.Message
}

const (
	valid = `{"type": "macvlan"}`
	other = `{"type": "macvlan", "mode": "vepa"}`
	wrong = "{\n  \"type\": \"macvlan\",\n  \"mode\": \"brigde\"\n}"
	odd   = `{"type": "macvlan", "mod": "vepa"}`
)

// TestDefinition checks what is denied, with which text, what is a warning, and that a stored definition is not checked
// again while its configuration stays. (behaviour S1-S8.)
func TestDefinition(t *testing.T) {
	t.Parallel()
	rules := func(pairs ...string) config.Admission {
		out := config.Admission{Rules: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			out.Rules[pairs[i]] = pairs[i+1]
		}
		return out
	}
	ignored := map[string]string{lint.Ignore: "value"}
	many := `{"type": "macvlan", "ipam": {"type": "static", "routes": [` + strings.Repeat(`{"dst": "x"}, `, 200) +
		`{}]},` + "\n" + `"mode": "brigde"}`
	for name, tc := range map[string]struct {
		op       admissionv1.Operation
		old, now []byte
		conf     config.Admission
		verdict  string
		want     string
	}{
		"valid": {"CREATE", nil, nad(valid, nil), config.Admission{}, VerdictAllow, ""},
		"error": {
			"CREATE", nil, nad(wrong, nil),
			config.Admission{},
			VerdictDeny,
			"network definition team/net: invalid config\nspec.config line 3, column 11: macvlan: mode \"brigde\" is unknown " +
				"[value]; write bridge, private, vepa, passthru",
		},
		"not JSON": {
			"CREATE", nil, nad("{\n\"type\": }", nil),
			config.Admission{},
			VerdictDeny,
			"network definition team/net: configuration string is not in JSON format\nspec.config line 2, column 9: ",
		},
		"no type": {"CREATE", nil, nad("{}", nil), config.Admission{}, VerdictDeny, ": invalid config\n"},
		"empty":   {"CREATE", nil, nad("", nil), config.Admission{}, VerdictWarn, "spec.config is empty"},
		"warning": {
			"CREATE", nil, nad(odd, nil),
			config.Admission{},
			VerdictWarn,
			`spec.config line 1, column 21: macvlan does not support the key "mod" [unknown-key]; did you mean "mode"?`,
		},
		"ignored by annotation": {"CREATE", nil, nad(wrong, ignored), config.Admission{}, VerdictAllow, ""},
		"error as warning": {
			"CREATE", nil, nad(wrong, nil), rules("value", "warn"), VerdictWarn, "spec.config line 3, column 11: ",
		},
		"error after many warnings": {
			"CREATE", nil, nad(many, nil), rules("ipam", "warn"), VerdictDeny, "\nspec.config line 2, column 9: ",
		},
		"error after many ignored ones": {
			"CREATE", nil, nad(many, map[string]string{lint.Ignore: "ipam"}), config.Admission{}, VerdictDeny, "[value]",
		},
		"rule off":         {"CREATE", nil, nad(wrong, nil), rules("value", "off"), VerdictAllow, ""},
		"warning as error": {"CREATE", nil, nad(odd, nil), rules("unknown-key", "deny"), VerdictDeny, "[unknown-key]"},
		"another rule":     {"CREATE", nil, nad(wrong, nil), rules("mac", "off"), VerdictDeny, "[value]"},
		"update to wrong":  {"UPDATE", nad(valid, nil), nad(wrong, nil), config.Admission{}, VerdictDeny, "[value]"},
		"wrong is labelled": {
			"UPDATE", nad(wrong, nil), nad(wrong, map[string]string{"a": "b"}), config.Admission{}, VerdictAllow, "",
		},
		"wrong is deleted":  {"DELETE", nad(wrong, nil), nil, config.Admission{}, VerdictAllow, ""},
		"wrong is repaired": {"UPDATE", nad(wrong, nil), nad(valid, nil), config.Admission{}, VerdictAllow, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verdict, text := review(t, reviewer(t, &cluster{}, tc.conf, nil), request(tc.op, tc.old, tc.now))
			if verdict != tc.verdict || !strings.Contains(text, tc.want) {
				t.Errorf("%s %q, want %s %q", verdict, text, tc.verdict, tc.want)
			}
		})
	}
}

// TestPod checks what is denied for a new pod, and that a network that cannot be looked up is not judged. (behaviour
// S10-S13.)
func TestPod(t *testing.T) {
	t.Parallel()
	c := &cluster{definitions: map[plan.Ref]string{
		{Namespace: "team", Name: "a"}: valid, {Namespace: "team", Name: "b"}: "unavailable",
		{Namespace: "infra", Name: "a"}: valid, {Namespace: "kube-system", Name: "c"}: valid,
	}}
	const networks, first = "k8s.v1.cni.cncf.io/networks", "v1.multus-cni.io/default-network"
	for name, tc := range map[string]struct {
		annotations map[string]string
		conf        config.Admission
		plugin      config.Plugin
		verdict     string
		want        string
	}{
		"exists":         {map[string]string{networks: "a"}, config.Admission{}, config.Plugin{}, VerdictAllow, ""},
		"unavailable":    {map[string]string{networks: "a,b"}, config.Admission{}, config.Plugin{}, VerdictAllow, ""},
		"no network":     {map[string]string{networks: ""}, config.Admission{}, config.Plugin{}, VerdictAllow, ""},
		"default":        {map[string]string{first: "c"}, config.Admission{}, config.Plugin{}, VerdictAllow, ""},
		"default, empty": {map[string]string{first: ""}, config.Admission{}, config.Plugin{}, VerdictDeny, "[annotation]"},
		"misspelt": {
			map[string]string{"k8s.v1.cni.cncf.io/network": "a"},
			config.Admission{},
			config.Plugin{},
			VerdictWarn,
			"[annotation-name]",
		},
		"syntax": {
			map[string]string{networks: "[\n {\"name\": \"a\",}]"},
			config.Admission{},
			config.Plugin{},
			VerdictDeny,
			"pod team/(generated name)\nmetadata.annotations[k8s.v1.cni.cncf.io/networks] line 2, column 15: ",
		},
		"interface name": {
			map[string]string{networks: "a@net1, a@a-name-that-is-too-long"},
			config.Admission{},
			config.Plugin{},
			VerdictDeny,
			"line 1, column 9: ",
		},
		"interface twice": {
			map[string]string{networks: "a@net1,a@net1"},
			config.Admission{},
			config.Plugin{},
			VerdictDeny,
			"[interface-duplicate]",
		},
		"MAC": {
			map[string]string{networks: `[{"name": "a", "mac": "01:00:00:00:00:01"}]`},
			config.Admission{},
			config.Plugin{},
			VerdictDeny, "line 1, column 23: ",
		},
		"isolation off": {map[string]string{networks: "infra/a"}, config.Admission{}, config.Plugin{}, VerdictAllow, ""},
		"isolation": {
			map[string]string{networks: "infra/a"},
			config.Admission{},
			config.Plugin{NamespaceIsolation: true},
			VerdictDeny,
			"[isolation]",
		},
		"unknown": {
			map[string]string{networks: "a,none"},
			config.Admission{},
			config.Plugin{},
			VerdictWarn,
			"line 1, column 3: network definition team/none does not exist [unknown-network]",
		},
		"unknown, deny": {
			map[string]string{networks: "none"},
			config.Admission{UnknownNetwork: "deny"},
			config.Plugin{},
			VerdictDeny,
			"[unknown-network]",
		},
		"unknown, off": {
			map[string]string{networks: "none"}, config.Admission{UnknownNetwork: "off"}, config.Plugin{}, VerdictAllow, "",
		},
		"unknown, by rule": {
			map[string]string{networks: "none"},
			config.Admission{Rules: map[string]string{"unknown-network": "deny"}},
			config.Plugin{},
			VerdictDeny, "[unknown-network]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verdict, text := review(t, reviewer(t, c, tc.conf, &tc.plugin), request("CREATE", nil, podObject(tc.annotations)))
			if verdict != tc.verdict || !strings.Contains(text, tc.want) || (text == "") != (verdict == VerdictAllow) {
				t.Errorf("%s %q, want %s %q", verdict, text, tc.verdict, tc.want)
			}
		})
	}
}

// TestInUse checks when a change of a definition that pods use is a warning, denied or allowed. (behaviour S14-S18.)
func TestInUse(t *testing.T) {
	t.Parallel()
	net := plan.Ref{Namespace: "team", Name: "net"}
	var seven []plan.Ref
	for i := range 7 {
		seven = append(seven, plan.Ref{Namespace: "team", Name: fmt.Sprintf("web-%d", i)})
	}
	allow := map[string]string{AllowInUse: "true"}
	deny := config.Admission{InUse: "deny"}
	for name, tc := range map[string]struct {
		op       admissionv1.Operation
		old, now []byte
		conf     config.Admission
		users    []plan.Ref
		set      func(*cluster)
		verdict  string
		want     string
	}{
		"delete": {
			"DELETE", nad(valid, nil), nil,
			config.Admission{},
			seven[:1], nil, VerdictWarn,
			"it is deleted while 1 pod is attached to it: team/web-0; running pods keep the configuration",
		},
		"delete, deny": {
			"DELETE", nad(valid, nil), nil, deny, seven, nil, VerdictDeny,
			"network definition team/net\nit is deleted while 7 pods are attached to it: team/web-0, team/web-1, team/web-2, " +
				"team/web-3, team/web-4 and 2 more; running pods keep the configuration with which they were attached [in-use]; " +
				"delete the pods first, or set the annotation v1.multus-cni.io/allow-in-use: \"true\" of the definition",
		},
		"not used": {"DELETE", nad(valid, nil), nil, deny, nil, nil, VerdictAllow, ""},
		"off":      {"DELETE", nad(valid, nil), nil, config.Admission{InUse: "off"}, seven, nil, VerdictAllow, ""},
		"permitted": {
			"DELETE", nad(valid, allow), nil, deny, seven, nil, VerdictAllow, "",
		},
		"not permitted": {
			"DELETE", nad(valid, map[string]string{AllowInUse: "yes"}), nil, deny, seven, nil, VerdictDeny, "",
		},
		"change": {
			"UPDATE", nad(valid, nil), nad(other, nil), deny, seven, nil, VerdictDeny,
			"spec.config changes while 7 pods are attached",
		},
		"change, permitted by the new version": {
			"UPDATE", nad(valid, nil), nad(other, allow), deny, seven, nil, VerdictAllow, "",
		},
		"white space":  {"UPDATE", nad(valid, nil), nad(" "+valid, nil), deny, seven, nil, VerdictAllow, ""},
		"labels":       {"UPDATE", nad(valid, nil), nad(valid, allow), deny, seven, nil, VerdictAllow, ""},
		"wrong before": {"UPDATE", nad("{", nil), nad(valid, nil), deny, seven, nil, VerdictDeny, "in-use"},
		"terminating": {
			"DELETE", nad(valid, nil), nil, deny, seven, func(c *cluster) { c.terminating = map[string]bool{"team": true} },
			VerdictAllow, "",
		},
		"namespace unknown": {
			"DELETE", nad(valid, nil), nil, deny, seven, func(c *cluster) { c.namespaces = errors.New("x") }, VerdictWarn, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &cluster{users: map[plan.Ref][]plan.Ref{net: tc.users}}
			if tc.set != nil {
				tc.set(c)
			}
			verdict, text := review(t, reviewer(t, c, tc.conf, nil), request(tc.op, tc.old, tc.now))
			if verdict != tc.verdict || !strings.Contains(text, tc.want) {
				t.Errorf("%s %q, want %s %q", verdict, text, tc.verdict, tc.want)
			}
		})
	}
}

// TestOthers checks that requests which the webhook configuration should not send are allowed, and that an object that
// cannot be read is an error. (behaviour S19.)
func TestOthers(t *testing.T) {
	t.Parallel()
	r := reviewer(t, &cluster{}, config.Admission{}, nil)
	pod := request("UPDATE", nil, podObject(map[string]string{"k8s.v1.cni.cncf.io/networks": "["}))
	status := request("UPDATE", nad(valid, nil), nad(wrong, nil))
	status.SubResource = "status"
	for name, req := range map[string]*admissionv1.AdmissionRequest{"pod": pod, "status": status} {
		if verdict, text := review(t, r, req); verdict != VerdictAllow {
			t.Errorf("%s: %s %s", name, verdict, text)
		}
	}
	for name, req := range map[string]*admissionv1.AdmissionRequest{
		"definition": request("CREATE", nil, []byte("[]")), "old": request("DELETE", []byte("["), nil),
		"pod": {
			Operation: "CREATE", Resource: metav1.GroupVersionResource{Resource: "pods"},
			Object: runtime.RawExtension{Raw: []byte("null")},
		},
	} {
		if o, err := r.Review(t.Context(), req); err == nil {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

// TestOptions checks the values of the configuration. (behaviour S6.)
func TestOptions(t *testing.T) {
	t.Parallel()
	for want, conf := range map[string]config.Admission{
		"": {
			Rules: map[string]string{"mac": "off", "in-use": "deny"}, UnknownNetwork: "off", InUse: "warn",
		},
		`no rule "macs"`:            {Rules: map[string]string{"macs": "off"}},
		`rules.mac is "no", not`:    {Rules: map[string]string{"mac": "no"}},
		`inUse is "error", not`:     {InUse: "error"},
		`unknownNetwork is "x", `:   {UnknownNetwork: "x"},
		`admission.rules.mac is ""`: {Rules: map[string]string{"mac": ""}},
	} {
		_, err := New(Options{Config: conf, Definitions: &cluster{}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestManyFindings checks that a response is limited in findings and in bytes. (behaviour S5.)
func TestManyFindings(t *testing.T) {
	t.Parallel()
	var keys strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&keys, `,"key-%d-%s":1`, i, strings.Repeat("x", 100))
	}
	for _, action := range []string{"deny", "warn"} {
		r := reviewer(t, &cluster{}, config.Admission{Rules: map[string]string{"unknown-key": action}}, nil)
		o, err := r.Review(t.Context(), request("CREATE", nil, nad(`{"type":"macvlan"`+keys.String()+`}`, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if action == "deny" && (len(o.Result.Message) > 2*maxShown*maxMessage ||
			!strings.HasSuffix(o.Result.Message, "and 90 more")) {
			t.Errorf("%d bytes: …%s", len(o.Result.Message), o.Result.Message[len(o.Result.Message)-20:])
		}
		total := 0
		for _, w := range o.Warnings {
			total += len(w)
		}
		if action == "warn" && (len(o.Warnings) != maxShown+1 || total > 4096) {
			t.Errorf("%d warnings, %d bytes", len(o.Warnings), total)
		}
	}
}

// documents returns the objects of a YAML file as JSON.
func documents(tb testing.TB, path string) [][]byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	var out [][]byte
	for doc := range strings.SplitSeq("\n"+string(b), "\n---\n") {
		object, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			tb.Fatalf("%s: %v", path, err)
		}
		if string(object) != "null" {
			out = append(out, object)
		}
	}
	return out
}

// TestValid checks that no configuration in use is denied: those after the manuals of many plugins, and the examples.
// The definitions are also those of the cluster with which each is compared. (behaviour S4.)
func TestValid(t *testing.T) {
	t.Parallel()
	var paths []string
	for _, pattern := range []string{"testdata/valid/*.yaml", "../../examples/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	c := &cluster{definitions: map[plan.Ref]string{}}
	var requests []*admissionv1.AdmissionRequest
	for _, path := range paths {
		for _, object := range documents(t, path) {
			var o struct {
				Kind     string            `json:"kind"`
				Metadata metav1.ObjectMeta `json:"metadata"`
				Spec     struct{ Config string }
			}
			if err := json.Unmarshal(object, &o); err != nil {
				t.Fatal(err)
			}
			req := request("CREATE", nil, object)
			switch o.Kind {
			case "NetworkAttachmentDefinition":
				c.definitions[plan.Ref{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}] = o.Spec.Config
			case "Pod":
				req.Resource = metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
			default:
				continue
			}
			if req.Namespace = o.Metadata.Namespace; req.Namespace == "" {
				req.Namespace = "default"
			}
			req.Name = o.Metadata.Name
			requests = append(requests, req)
		}
	}
	r := reviewer(t, c, config.Admission{}, nil)
	warned := 0
	for _, req := range requests {
		switch verdict, text := review(t, r, req); verdict {
		case VerdictDeny:
			t.Errorf("%s", text)
		case VerdictWarn:
			warned++
			t.Logf("%s/%s: %s", req.Namespace, req.Name, text)
		}
	}
	t.Logf("%d objects, %d of them with warnings", len(requests), warned)
	if len(requests) < 60+20 {
		t.Error("too few")
	}
}

// TestStored checks that each state of a definition is counted, and that a configuration that is invalid has one event.
// (behaviour S22, S23.)
func TestStored(t *testing.T) {
	t.Parallel()
	events := make(chan Event, 10)
	s := NewStored(reviewer(t, &cluster{}, config.Admission{}, nil), func(_ context.Context, e Event) error {
		events <- e
		return nil
	}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer cancel()
	def := func(name, conf string) *plan.Definition {
		return &plan.Definition{Ref: plan.Ref{Namespace: "team", Name: name}, Config: conf}
	}
	s.Check(def("valid", valid), "1", "", false)
	s.Check(def("odd", odd), "2", "", false)
	s.Check(def("large", ""), "3", "", true)
	s.Check(def("ignored", wrong), "4", "value", false)
	for range 3 { // a resynchronization, or a change of labels
		s.Check(def("wrong", wrong), "5", "", false)
	}
	first := <-events
	if !regexp.MustCompile(`^spec\.config line 3, column 11: .* \[value\]; `).MatchString(first.Message) ||
		first.Name != "wrong" || first.UID != "5" {
		t.Errorf("%+v", first)
	}
	s.Check(def("wrong", "{"), "5", "", false)
	if second := <-events; second.Version == first.Version || !strings.Contains(second.Message, "[config]") {
		t.Errorf("%+v", second)
	}
	want := map[string]int{StateValid: 2, StateWarning: 1, StateInvalid: 1, StateUnchecked: 1}
	if got := s.Counts(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	s.Forget(plan.Ref{Namespace: "team", Name: "wrong"})
	if got := s.Counts()[StateInvalid]; got != 0 {
		t.Errorf("%d invalid definitions", got)
	}
	cancel()
	if err := <-ended; err != nil || len(events) > 0 {
		t.Errorf("%v, %d more events", err, len(events))
	}
}

// FuzzDecode checks that no request makes the decoder or a rule panic, and that every response can be encoded.
func FuzzDecode(f *testing.F) {
	paths, err := filepath.Glob("testdata/valid/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	add := func(req *admissionv1.AdmissionRequest) {
		b, err := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: "admission.k8s.io/v1"}, Request: req,
		})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, path := range paths {
		for _, object := range documents(f, path) {
			add(request("CREATE", nil, object))
		}
	}
	add(request("UPDATE", nad(valid, nil), nad(wrong, nil)))
	add(request("DELETE", nad(valid, nil), nil))
	for _, annotation := range []string{"a,b@net1,c/d", `[{"name":"a","ips":["192.0.2.1/24"],"mac":"02:00:00:00:00:01"}]`, "["} {
		add(request("CREATE", nil, podObject(map[string]string{"k8s.v1.cni.cncf.io/networks": annotation})))
	}
	net := plan.Ref{Namespace: "team", Name: "net"}
	c := &cluster{
		definitions: map[plan.Ref]string{{Namespace: "team", Name: "a"}: valid, net: wrong},
		users:       map[plan.Ref][]plan.Ref{net: {{Namespace: "team", Name: "web-0"}}},
	}
	r := reviewer(f, c, config.Admission{InUse: "deny"}, &config.Plugin{NamespaceIsolation: true})
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := Decode(body)
		if err != nil {
			return
		}
		o, err := r.Review(t.Context(), req)
		if err != nil {
			return
		}
		b, err := Encode(o.AdmissionResponse)
		if err != nil || !json.Valid(b) || !o.Allowed && o.Result.Message == "" {
			t.Errorf("%v %s", err, b)
		}
	})
}

// corpus calls add for the definitions and pods of the corpus of lint and of the valid definitions, so that every rule
// has a seed.
func corpus(f *testing.F, add func(kind, config, networks string)) {
	f.Helper()
	for _, pattern := range []string{"testdata/valid/*.yaml", "../lint/testdata/corpus/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			for doc := range strings.SplitSeq("\n"+string(b), "\n---\n") {
				var o struct {
					Kind     string            `json:"kind"`
					Metadata metav1.ObjectMeta `json:"metadata"`
					Spec     struct {
						Config string `json:"config"`
					} `json:"spec"`
				}
				if yaml.Unmarshal([]byte(doc), &o) == nil {
					add(o.Kind, o.Spec.Config, o.Metadata.Annotations["k8s.v1.cni.cncf.io/networks"])
				}
			}
		}
	}
}

// checkOutcome checks a response: a denial has a message, and a finding in a string has a position in it.
func checkOutcome(t *testing.T, r *Reviewer, req *admissionv1.AdmissionRequest, value string) {
	t.Helper()
	o, err := r.Review(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Encode(o.AdmissionResponse); err != nil || !o.Allowed && o.Result.Message == "" {
		t.Errorf("%v %+v", err, o)
	}
	found, err := r.check(t.Context(), req)
	lines := 1 + strings.Count(value, "\n") + strings.Count(value, "\r") + strings.Count(value, "\u0085") +
		strings.Count(value, "\u2028") + strings.Count(value, "\u2029")
	for _, x := range found {
		if x.Line < 0 || x.Line > lines || (x.Line == 0) != (x.Column == 0) || x.Message == "" || x.Fix == "" {
			t.Errorf("%d lines, %+v", lines, x)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// FuzzConfig checks the rules about definitions with any spec.config.
func FuzzConfig(f *testing.F) {
	corpus(f, func(kind, config, _ string) {
		if kind == "NetworkAttachmentDefinition" {
			f.Add(config)
		}
	})
	c := &cluster{definitions: map[plan.Ref]string{
		{Namespace: "team", Name: "other"}: `{"type":"macvlan","master":"eth1","ipam":{"type":"host-local","subnet":"10.0.0.0/8"}}`,
	}}
	r := reviewer(f, c, config.Admission{}, &config.Plugin{AllowedTypes: []string{"macvlan", "host-local", "bridge"}})
	f.Fuzz(func(t *testing.T, conf string) { checkOutcome(t, r, request("CREATE", nil, nad(conf, nil)), conf) })
}

// FuzzAnnotation checks the rules about pods with any annotation, and the definition that it names with any
// spec.config.
func FuzzAnnotation(f *testing.F) {
	corpus(f, func(kind, _, networks string) {
		if kind == "Pod" {
			f.Add(networks, valid)
		}
	})
	corpus(f, func(kind, config, _ string) {
		if kind == "NetworkAttachmentDefinition" {
			f.Add(`[{"name":"net","ips":["192.0.2.1/24"],"mac":"02:00:00:00:00:01","bandwidth":{"ingressRate":1}}]`, config)
		}
	})
	f.Fuzz(func(t *testing.T, networks, conf string) {
		c := &cluster{definitions: map[plan.Ref]string{{Namespace: "team", Name: "net"}: conf}}
		r := reviewer(t, c, config.Admission{UnknownNetwork: "deny"}, &config.Plugin{NamespaceIsolation: true})
		pod := podObject(map[string]string{"k8s.v1.cni.cncf.io/networks": networks})
		checkOutcome(t, r, request("CREATE", nil, pod), networks)
	})
}
