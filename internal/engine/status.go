package engine

import (
	"context"
	"os"

	"multus/internal/fault"
)

// status asks the cluster network. A delegate's own error keeps its code and text (behaviour.md D94).
func (c *call) status(ctx context.Context) error {
	if err := c.conf.HasNetwork(); err != nil {
		return err
	}
	if file := c.conf.ReadinessIndicatorFile; file != "" {
		if _, err := os.Stat(file); err != nil {
			return fault.Wrap(err, fault.NotAvailable, "look at the pods of the cluster network on this node",
				"the cluster network is not ready: readinessindicatorfile")
		}
	}
	if answer, known := c.deps.Status.Last(ctx, c.req.Config); known {
		return answer
	}
	p, err := c.deps.Planner.Plan(ctx, c.req, c.conf)
	if err != nil {
		return err
	}
	err = c.runner(p.Dirs).Status(ctx, &p.Attachments[0])
	if ctx.Err() == nil {
		c.deps.Status.Remember(ctx, c.req.Config, err)
	}
	return err
}
