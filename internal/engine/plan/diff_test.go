package plan_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/netsel"
)

// anything has every pod, with these annotations, and every definition whose name does not begin with "no".
type anything map[string]string

func (a anything) Pod(_ context.Context, ref plan.Ref) (*plan.Pod, error) {
	return &plan.Pod{Ref: ref, UID: "u", Annotations: a}, nil
}

func (anything) Network(_ context.Context, ref plan.Ref) (*plan.Definition, error) {
	if strings.HasPrefix(ref.Name, "no") {
		return nil, plan.ErrNotFound
	}
	return &plan.Definition{Ref: ref, Config: `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`}, nil
}

// FuzzDiff compares sandboxes with annotations. It checks that the changes are valid, and that a sandbox that was
// changed is not changed again.
func FuzzDiff(f *testing.F) {
	const has = `[{"Name":"cluster","IfName":"eth0","Primary":true},{"Name":"team/a","IfName":"net1","Owner":"pod"},` +
		`{"Name":"team/b","IfName":"data0"},{"Name":"kube-system/all","IfName":"net2","Owner":"node"}]`
	for _, networks := range []string{
		"", "a", "a, b@data0", "b, a@net7, other/a", `[{"name":"a","interface":"net1"},{"name":"a"},{"name":"no"}]`, "a@eth0",
		`[{"name":"a","mac":"02:00:00:00:00:01","default-route":["192.0.2.1"]}]`, "a@pod0123456789a, b", "[{", " ", "a,,b",
	} {
		f.Add(networks, "", []byte(has))
		f.Add(networks, `[{"name":"team/a","interface":"net1"}]`, []byte(`[]`))
	}
	f.Fuzz(func(t *testing.T, networks, status string, attached []byte) {
		var has []plan.Attached
		if json.Unmarshal(attached, &has) != nil {
			return
		}
		changes, err := diffOf(t, networks, status, has)
		if err != nil {
			if changes != nil {
				t.Error("changes and an error")
			}
			return
		}
		if err := changes.Validate(has); err != nil {
			t.Errorf("the changes are invalid: %v", err)
		}
		again, err := diffOf(t, networks, status, changed(has, changes))
		if err != nil || len(again.Remove)+len(again.Add) > 0 || len(again.Refused) != len(changes.Refused) {
			t.Errorf("after the changes: %+v, %v; first: %+v", again, err, changes)
		}
	})
}

func diffOf(t *testing.T, networks, status string, has []plan.Attached) (*plan.Changes, error) {
	t.Helper()
	source := anything{netsel.Networks: networks, netsel.Status: status}
	return diffFrom(t, source, source, has, "all")
}

func diffFrom(t *testing.T, pods plan.Pods, definitions plan.Networks, has []plan.Attached, defaults ...string,
) (*plan.Changes, error) {
	t.Helper()
	r := &plan.Resolver{Networks: definitions, Pods: pods, Log: slog.New(slog.DiscardHandler)}
	req := &request.Request{
		Command: request.Add, ContainerID: "c", Netns: "/run/netns/test", IfName: "eth0",
		Config: []byte(`{"cniVersion":"1.1.0","name":"m","type":"multus","clusterNetwork":"x"}`),
		Args:   request.Args{{request.PodNamespace, "team"}, {request.PodName, "web"}, {request.PodUID, "u"}},
	}
	conf, err := config.ParsePlugin(req.Config)
	if err != nil {
		t.Fatal(err)
	}
	conf.DefaultNetworks = defaults
	return r.Diff(t.Context(), req, conf, has)
}

// unready is a source of a pod whose readiness gate says that a network is missing.
type unready struct{ anything }

func (u unready) Pod(ctx context.Context, ref plan.Ref) (*plan.Pod, error) {
	p, err := u.anything.Pod(ctx, ref)
	p.Unready = true
	return p, err
}

// TestDiffUnready checks that the status, and with it the condition, of a pod is written again when nothing is missing,
// and not while something is (behaviour R31).
func TestDiffUnready(t *testing.T) {
	t.Parallel()
	has := []plan.Attached{
		{Name: "cluster", IfName: "eth0", Primary: true}, {Name: "team/a", IfName: "net1", Owner: "pod"},
	}
	const status = `[{"name":"cluster","interface":"eth0"},{"name":"team/a","interface":"net1"}]`
	for networks, want := range map[string]bool{"a": true, "a, no": false, "a, b": false, "": false} {
		source := anything{netsel.Networks: networks, netsel.Status: status}
		got, err := diffFrom(t, unready{source}, source, has)
		if err != nil || got.Stale != want {
			t.Errorf("%q: %+v, %v, want stale %t", networks, got, err, want)
		}
		if got, err = diffFrom(t, source, source, has); err != nil || got.Stale {
			t.Errorf("%q, ready: %+v, %v", networks, got, err)
		}
	}
}

// changed returns what a sandbox has after its changes.
func changed(has []plan.Attached, c *plan.Changes) (out []plan.Attached) {
	for i := range has {
		if !slices.Contains(c.Remove, i) {
			out = append(out, has[i])
		}
	}
	for i := range c.Add {
		a := &c.Add[i]
		out = append(out, plan.Attached{
			Name: a.Name, IfName: a.IfName, Owner: plan.OwnerOf(a.Origin), RuntimeConfig: a.RuntimeConfig,
		})
	}
	return out
}
