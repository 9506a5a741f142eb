package session

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
)

// Verbose logs one attachment in the format that users parse (behaviour L4). verb is Add or Del. what is the result of
// an Add, or the configuration of a Del.
func (s *Session) Verbose(ctx context.Context, verb string, a *ledger.Attachment, what any, took time.Duration) {
	if !s.Log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	b, err := json.Marshal(what)
	if err != nil {
		b = []byte(err.Error())
	}
	name := a.Config.Name()
	if verb == "Add" {
		name = a.Name + "(" + name + ")"
	}
	args := s.Request.Args
	line := fmt.Sprintf("%s: %s:%s:%s:%s:%s %s", verb, args.Get(request.PodNamespace), args.Get(request.PodName),
		cmp.Or(args.Get(request.PodUID), "unknownUID"), name, a.IfName, b)
	s.Log.InfoContext(ctx, line, "seconds", took.Seconds()) //nolint:sloglint // the message format is fixed: users parse it
}
