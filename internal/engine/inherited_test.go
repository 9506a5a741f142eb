package engine

import (
	"context"
	"strings"
	"testing"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
)

// inheriting is a planner whose cluster network has no cniVersion of its own.
type inheriting struct{ planner }

func (i inheriting) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	p, err := i.planner.Plan(ctx, req, conf)
	if err != nil {
		return nil, err
	}
	a := &p.Attachments[0]
	a.Inherited = true
	a.Config, err = cniconf.Parse(
		[]byte(`{"cniVersion":"` + conf.CNIVersion + `","name":"cluster-net","plugins":[{"type":"cluster"}]}`))
	return p, err
}

// refusing is the script of a plugin that refuses the version of the outer configuration at every verb but VERSION.
const refusing = `
if test $CNI_COMMAND != VERSION && grep -q '"cniVersion":"1.1.0"' $dir/$me.$CNI_COMMAND.in; then
	echo '{"code":1,"msg":"incompatible CNI versions","details":"config is \"1.1.0\", plugin supports [\"0.4.0\" \"1.0.0\"]"}'; exit 1
fi
`

// TestInheritedVersion checks that no verb fails because a network without a cniVersion inherits the version of the
// outer configuration and its plugin does not support that version. A failed STATUS would make the node not ready. The
// same holds for GC, and for CHECK of inline delegates without a record (behaviour B5).
func TestInheritedVersion(t *testing.T) {
	t.Parallel()
	for what, does := range map[string]string{
		"it reports its versions": `test $CNI_COMMAND = VERSION && { echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit 0; }` + refusing,
		"it does not report them": `test $CNI_COMMAND = VERSION && exit 1` + refusing,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "cluster")
			n.engine.deps.Planner, n.engine.deps.Status = inheriting{}, noCache{}
			n.does(t, "cluster", does)
			if err := n.engine.Status(t.Context(), n.request(request.Status, "", "")); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			if err := n.engine.GC(t.Context(), n.request(request.GC, "", `,"cni.dev/valid-attachments":[]`)); err != nil {
				t.Errorf("GC: %v", err)
			}
			if strings.Contains(what, "it logs") && strings.Contains(n.called(t), "cluster GC") {
				t.Error("GC with a version that the plugin does not support")
			}
			req := n.request(request.Check, "c", `,"delegates":[{"name":"cluster-net","plugins":[{"type":"cluster"}]}]`)
			req.Config = []byte(strings.Replace(string(req.Config), `"clusterNetwork":"x",`, "", 1))
			if err := n.engine.Check(t.Context(), req); err != nil {
				t.Errorf("CHECK: %v", err)
			}
		})
	}
}

// TestInheritedVersionAsked checks that a plugin that supports the inherited version gets STATUS and that its result
// counts.
func TestInheritedVersionAsked(t *testing.T) {
	t.Parallel()
	n := newNode(t, "cluster")
	n.engine.deps.Planner, n.engine.deps.Status = inheriting{}, noCache{}
	n.does(t, "cluster", `test $CNI_COMMAND = VERSION && { echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'; exit 0; }
test $CNI_COMMAND = STATUS && { echo '{"code":50,"msg":"no pool"}'; exit 1; }`)
	// On a busy machine the plugin may need more than one attempt to answer within the limit.
	eventually.True(t, "the plugin's answer to STATUS", func() bool {
		err := n.engine.Status(t.Context(), n.request(request.Status, "", ""))
		return err != nil && strings.Contains(err.Error(), "no pool")
	})
}
