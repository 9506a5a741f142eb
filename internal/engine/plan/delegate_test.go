package plan_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

// wanted decides about a request for the interface net1 of a pod. more is added to the configuration.
func wanted(t *testing.T, networks, more string, has []plan.Attached, w *plan.Wanted) (*plan.Changes, error) {
	t.Helper()
	source := anything{netsel.Networks: networks}
	r := &plan.Resolver{Networks: source, Pods: source, Log: slog.New(slog.DiscardHandler)}
	req := &request.Request{
		ContainerID: "c", Netns: "/run/netns/test", IfName: "eth0",
		Args: request.Args{{request.PodNamespace, "team"}, {request.PodName, "web"}, {request.PodUID, "u"}},
	}
	conf, err := config.ParsePlugin([]byte(`{"cniVersion":"1.0.0","name":"m","type":"multus","clusterNetwork":"x"` + more + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return r.Delegate(t.Context(), req, conf, has, w)
}

// TestDelegate checks what a request for one network becomes, and why it is refused (behaviour R21).
func TestDelegate(t *testing.T) {
	t.Parallel()
	const bridge = `{"cniVersion":"0.4.0","name":"n","type":"bridge"}`
	taken := []plan.Attached{
		{Name: "cluster", IfName: "eth0", Primary: true}, {Name: "team/b", IfName: "net1", Owner: "pod"},
	}
	for name, tc := range map[string]struct {
		networks, more, config string
		attributes             netsel.Element
		has                    []plan.Attached
		// want is name, version, CNI_ARGS and runtimeConfig of the addition, or "" for none, or the beginning of the error.
		want string
	}{
		"with its own version": {networks: "a@net1", config: bridge, want: "team/a 0.4.0  null {}"},
		"without a version": {
			networks: "a@net1", config: `{"type":"bridge"}`, want: "team/a 1.0.0  null {}",
		},
		"the attributes of the request": {
			networks: "a@net1", config: bridge, attributes: netsel.Element{
				IPs: []string{"192.0.2.7/24"}, MAC: "02:00:00:00:00:01", CNIArgs: map[string]json.RawMessage{"k": json.RawMessage("1")},
			},
			want: `team/a 0.4.0 MAC=02:00:00:00:00:01;IP=192.0.2.7/24 {"ips":["192.0.2.7/24"],"mac":"02:00:00:00:00:01"} {"cni":{"k":1}}`,
		},
		"those of the annotation": {
			networks: `[{"name":"a","interface":"net1","portMappings":[{"hostPort":1,"containerPort":2}]}]`, config: bridge,
			want: `team/a 0.4.0  {"portMappings":[{"hostPort":1,"containerPort":2}]} {}`,
		},
		"attached already": {
			networks: "b@net1", config: bridge, has: taken,
		},
		"another network has the interface": {
			networks: "a@net1", config: bridge, has: taken, want: "error: network team/a of pod team/web: interface name net1",
		},
		"a network of the node has the interface": {
			networks: "a@net1", config: bridge, has: []plan.Attached{{Name: "team/a", IfName: "net1", Owner: "node"}},
			want: "error: network team/a of pod team/web: interface name net1",
		},
		"not in the annotation": {
			networks: "a@net2, a", config: bridge,
			want: "error: the annotation k8s.v1.cni.cncf.io/networks of pod team/web requests no network with interface net1",
		},
		"an annotation that cannot be read": {networks: "[", config: bridge, want: "error: "},
		"of an isolated namespace": {
			networks: "other/a@net1", config: bridge, more: `,"namespaceIsolation":true`, want: "error: error loading k8s delegates k8s args: namespace isolation enabled",
		},
		"of a type that is not allowed": {
			networks: "a@net1", config: bridge, more: `,"allowedTypes":["macvlan"]`, want: "error: network team/a of pod team/web",
		},
		"of Multus": {networks: "a@net1", config: `{"name":"n","type":"multus"}`, want: "error: network team/a"},
		"a default route": {
			networks: `[{"name":"a","interface":"net1","default-route":["192.0.2.1"]}]`, config: bridge,
			want: "error: network team/a of pod team/web: the default route of a running pod is not moved",
		},
		"too large": {
			networks: "a@net1", config: `{"name":"n","type":"bridge","x":"` + strings.Repeat("x", plan.MaxConfigBytes) + `"}`,
			want: "error: error loading k8s delegates k8s args: network-attachment-definition team/a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &plan.Wanted{IfName: "net1", Config: []byte(tc.config), Attributes: tc.attributes}
			c, err := wanted(t, tc.networks, tc.more, tc.has, w)
			got := ""
			switch {
			case err != nil:
				got = "error: " + err.Error()
			case len(c.Remove)+len(c.Refused)+len(c.Ignored) > 0 || c.Stale || c.Validate(tc.has) != nil:
				t.Errorf("%+v", c)
			case len(c.Add) == 1:
				got = described(t, &c.Add[0])
			}
			if text, failed := strings.CutPrefix(tc.want, "error: "); got != tc.want && (!failed || err == nil ||
				!strings.HasPrefix(err.Error(), text)) {
				t.Errorf("%.300s, want %s", got, tc.want)
			}
		})
	}
}

// described returns name, version, the further CNI_ARGS, runtimeConfig and args of an addition for the pod.
func described(t *testing.T, a *plan.Attachment) string {
	t.Helper()
	rc, err := json.Marshal(a.RuntimeConfig)
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Args json.RawMessage `json:"args"`
	}
	if err := a.Config.Decode(0, &conf); err != nil {
		t.Fatal(err)
	}
	if conf.Args == nil {
		conf.Args = json.RawMessage("{}")
	}
	if a.IfName != "net1" || a.Origin != plan.FromAnnotation || a.Args.Get(request.PodName) != "web" {
		t.Errorf("%+v", a)
	}
	return strings.Join([]string{a.Name, a.Config.Version(), a.Args[5:].String(), string(rc), string(conf.Args)}, " ")
}
