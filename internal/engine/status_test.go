package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/testutil/eventually"
)

type noCache struct{}

func (noCache) Get(context.Context, []byte) (error, bool) { return nil, false }
func (noCache) Put(context.Context, []byte, error)        {}

// stuckPlanner never returns and ignores its context, like a file system that hangs.
type stuckPlanner struct{ until chan struct{} }

func (s stuckPlanner) Plan(context.Context, *request.Request, *config.Plugin) (*plan.Plan, error) {
	<-s.until
	return nil, errors.New("at last")
}

// TestStatusAnswers checks that STATUS returns within a second even if a plugin cannot be killed: containerd has no
// limit of its own, and a node whose STATUS hangs is not ready.
func TestStatusAnswers(t *testing.T) {
	t.Parallel()
	if StatusLimit+statusGrace >= time.Second {
		t.Errorf("%s and %s are not below a second", StatusLimit, statusGrace)
	}
	n := newNode(t, "cluster")
	until := make(chan struct{})
	defer close(until)
	n.engine.deps.Status, n.engine.deps.Planner = noCache{}, stuckPlanner{until}
	var ce *types.Error
	if err := n.engine.Status(t.Context(), n.request(request.Status, "", "")); !errors.As(err, &ce) || ce.Code != 50 {
		t.Errorf("a planner that hangs: %v", err)
	}
	n = newNode(t, "cluster") // the planner of the first node still runs
	n.engine.deps.Status = noCache{}
	n.does(t, "cluster", "exec sleep 1000")
	if err := n.engine.Status(t.Context(), n.request(request.Status, "", "")); !errors.As(err, &ce) || ce.Code != 50 {
		t.Errorf("a plugin that hangs: %v", err)
	}
	n.does(t, "cluster", "")
	// On a busy machine a plugin may need more than one attempt to answer within the limit.
	eventually.True(t, "STATUS of a plugin that answers", func() bool {
		return n.engine.Status(t.Context(), n.request(request.Status, "", "")) == nil
	})
}
