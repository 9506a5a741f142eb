package daemon

import (
	"context"
	"log/slog"
	"time"

	"multus/internal/agent/podstatus"
	"multus/internal/engine/publish"
)

// ConfigurationLost is the reason of the node event that is written while another program keeps the runtime from
// calling Multus (multus-cni#972).
const ConfigurationLost = "CNIConfigurationLost"

// conflictEvents writes an event of the node when the CNI configuration file is lost. The loss is also in the log and
// at /readyz, but an administrator whose pods lack networks looks at the node's events first.
type conflictEvents struct {
	emit func(ctx context.Context, node string, e publish.Event) error
	node string
	log  *slog.Logger
	// queued holds the error to report. An error that is queued while another one waits is dropped: it has the same cause,
	// and it is in the log.
	queued chan error
}

func newConflictEvents(
	emit func(context.Context, string, publish.Event) error, node string, log *slog.Logger,
) *conflictEvents {
	return &conflictEvents{emit: emit, node: node, log: log, queued: make(chan error, 1)}
}

// enqueue hands an error to run. It does not wait.
func (c *conflictEvents) enqueue(err error) {
	select {
	case c.queued <- err:
	default:
	}
}

// run writes an event for each queued error, until ctx ends. It retries each event until the API server accepts
// it.
func (c *conflictEvents) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case why := <-c.queued:
			if c.emit == nil || c.node == "" {
				c.log.Warn("cannot write an event of the node: its name is unknown, or no cluster is configured", "node", c.node)
				continue
			}
			c.write(ctx, publish.Event{Type: publish.Warning, Reason: ConfigurationLost, Message: why.Error()})
		}
	}
}

func (c *conflictEvents) write(ctx context.Context, e publish.Event) {
	for tries := 1; ; tries++ {
		err := c.emit(ctx, c.node, e)
		if err == nil {
			return
		}
		c.log.Warn("event of the node not written yet, trying again", "node", c.node, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(podstatus.RetryPause(tries)):
		}
	}
}
