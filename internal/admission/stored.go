package admission

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"multus/internal/engine/plan"
	"multus/internal/fault"
	"multus/internal/lint"
	"multus/internal/netsel"
)

// The states of stored definitions, as in the metrics.
const (
	StateValid   = "valid"
	StateWarning = "warning"
	StateInvalid = "invalid"
	// StateUnchecked is that of a definition that is larger than the cache permits.
	StateUnchecked = "unchecked"
)

// States returns all states.
func States() []string { return []string{StateValid, StateWarning, StateInvalid, StateUnchecked} }

// InvalidConfiguration is the reason of the event of a stored definition that would be refused today.
const InvalidConfiguration = "InvalidConfiguration"

const (
	// eventsPerMinute limits the events of stored definitions, and eventBurst those at the start of the server.
	eventsPerMinute = 30
	eventBurst      = 10
	// maxEvents limits the events that wait.
	maxEvents = 1000
	// maxEventText limits the text of an event, which the API server limits to 1024 bytes.
	maxEventText = 1000
	// eventLimit limits the time to write one event.
	eventLimit = 10 * time.Second
)

// Event is a warning about a stored definition.
type Event struct {
	plan.Ref
	UID string
	// Version identifies the configuration, so that an event is recorded once for it.
	Version string
	Message string
}

// Stored checks the definitions that the cluster has, which may be older than the webhook, or may have been created
// while it did not run.
type Stored struct {
	reviewer *Reviewer
	emit     func(ctx context.Context, e Event) error
	log      *slog.Logger
	limit    *rate.Limiter

	mu      sync.Mutex
	states  map[plan.Ref]known
	waiting []Event
	wake    chan struct{}
}

// known is what is remembered of a definition: the version of its configuration, and its state.
type known struct{ version, state string }

// NewStored returns a Stored that checks with the rules of a Reviewer, and passes events to emit.
func NewStored(r *Reviewer, emit func(ctx context.Context, e Event) error, log *slog.Logger) *Stored {
	return &Stored{
		reviewer: r, emit: emit, log: log, states: map[plan.Ref]known{}, wake: make(chan struct{}, 1),
		limit: rate.NewLimiter(rate.Every(time.Minute/eventsPerMinute), eventBurst),
	}
}

// Check checks a definition that is new or has changed. ignore is the value of its annotation lint.Ignore. With
// partial, the configuration is unknown.
func (s *Stored) Check(def *plan.Definition, uid, ignore string, partial bool) {
	version := versionOf(def, uid, ignore)
	s.mu.Lock()
	had, ok := s.states[def.Ref]
	s.mu.Unlock()
	if ok && had.version == version {
		return
	}
	is := known{version, StateUnchecked}
	var invalid []finding
	if !partial {
		is.state, invalid = s.state(def, ignore)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[def.Ref] = is
	if len(invalid) > 0 && len(s.waiting) < maxEvents {
		s.waiting = append(s.waiting, Event{Ref: def.Ref, UID: uid, Version: version, Message: describe(invalid)})
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Forget forgets a definition that is gone.
func (s *Stored) Forget(ref plan.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.states, ref)
	s.waiting = slices.DeleteFunc(s.waiting, func(e Event) bool { return e.Ref == ref })
}

// Counts returns the number of definitions by state.
func (s *Stored) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for _, k := range s.states {
		out[k.state]++
	}
	return out
}

func versionOf(def *plan.Definition, uid, ignore string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{uid, def.ResourceName, ignore, def.Config}, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// state returns the state of a definition, and the findings by which it would be refused.
func (s *Stored) state(def *plan.Definition, ignore string) (string, []finding) {
	object, err := json.Marshal(map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{
			"namespace": def.Namespace, "name": def.Name,
			"annotations": map[string]string{lint.Ignore: ignore, netsel.ResourceName: def.ResourceName},
		},
		"spec": map[string]string{"config": def.Config},
	})
	if err != nil { // strings always encode
		panic(err)
	}
	found, err := lint.Review(object, def.Namespace, lint.Cluster{Network: missing}, s.reviewer.lint)
	if err != nil {
		return StateUnchecked, nil
	}
	judged := s.reviewer.judge(found)
	denied := slices.DeleteFunc(slices.Clone(judged), func(f finding) bool { return !f.deny })
	switch {
	case len(denied) > 0:
		return StateInvalid, denied
	case len(judged) > 0:
		return StateWarning, nil
	}
	return StateValid, nil
}

func missing(plan.Ref) (*plan.Definition, error) { return nil, plan.ErrNotFound }

// describe returns the text of an event.
func describe(found []finding) string {
	text := fault.Clip(found[0].text(), maxEventText)
	if more := len(found) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// Run writes events until ctx ends. An event that cannot be written is logged and given up: the metric shows the
// definition.
func (s *Stored) Run(ctx context.Context) error {
	for {
		s.mu.Lock()
		var e *Event
		if len(s.waiting) > 0 {
			e, s.waiting = &s.waiting[0], s.waiting[1:]
		}
		s.mu.Unlock()
		if e == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-s.wake:
			}
			continue
		}
		if s.limit.Wait(ctx) != nil {
			return nil
		}
		s.write(ctx, e)
	}
}

func (s *Stored) write(ctx context.Context, e *Event) {
	ctx, cancel := context.WithTimeout(ctx, eventLimit)
	defer cancel()
	if err := s.emit(ctx, *e); err != nil && !errors.Is(err, context.Canceled) {
		s.log.Warn("event of an invalid network definition cannot be written", "network", e.Ref, "err", err)
	}
}
