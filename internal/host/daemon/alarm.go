package daemon

import (
	"context"
	"log/slog"
	"time"

	"multus/internal/engine/publish"
)

// SlotLost is the reason of the node event that is written while another program keeps the runtime from calling Multus
// (multus-cni#972).
const SlotLost = "CNIConfigurationLost"

// alarm writes an event of the node when the CNI configuration file is lost. The loss is also in the log and at
// /readyz, but an administrator whose pods lack networks looks at the node's events first.
type alarm struct {
	emit func(ctx context.Context, node string, e publish.Event) error
	node string
	log  *slog.Logger
	// raised holds the error to report. An error that is raised while another one waits is dropped: it has the same cause,
	// and it is in the log.
	raised chan error
}

func newAlarm(emit func(context.Context, string, publish.Event) error, node string, log *slog.Logger) *alarm {
	return &alarm{emit: emit, node: node, log: log, raised: make(chan error, 1)}
}

// raise hands an error to run. It does not wait.
func (a *alarm) raise(err error) {
	select {
	case a.raised <- err:
	default:
	}
}

// run writes an event for each error that is raised, until ctx ends. It retries each event until the API server accepts
// it.
func (a *alarm) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case why := <-a.raised:
			if a.emit == nil || a.node == "" {
				a.log.Warn("no event of the node: its name is not known, or there is no cluster", "node", a.node)
				continue
			}
			a.tell(ctx, publish.Event{Type: publish.Warning, Reason: SlotLost, Message: why.Error()})
		}
	}
}

func (a *alarm) tell(ctx context.Context, e publish.Event) {
	for tries := 1; ; tries++ {
		err := a.emit(ctx, a.node, e)
		if err == nil {
			return
		}
		a.log.Warn("event of the node not written yet, trying again", "node", a.node, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryPause(tries, lastRetry)):
		}
	}
}
