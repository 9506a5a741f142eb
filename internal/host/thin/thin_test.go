package thin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"multus/internal/config"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/source"
)

// scriptedCluster is a cluster that returns the answers one after another, and then repeats the last one.
type scriptedCluster struct {
	answers []error
	asked   int
	events  []string
}

func (b *scriptedCluster) SetStatus(context.Context, request.Pod, string, string, *publish.Unready) error {
	b.asked++
	return b.answers[min(b.asked, len(b.answers))-1]
}

func (b *scriptedCluster) Emit(_ context.Context, _ request.Pod, e publish.Event) error {
	b.events = append(b.events, e.Reason)
	return nil
}

// TestEvents checks that the key events reaches the place where events are written, and that ADD refuses an unknown
// value. DEL does not need the value (behaviour O65).
func TestEvents(t *testing.T) {
	t.Parallel()
	for events, want := range map[string]bool{"": true, "each": true, "failures": false, "none": false} {
		dir := t.TempDir()
		conf, err := config.ParsePlugin(fmt.Appendf(nil, `{"networksDir":%q,"events":%q}`, dir, events))
		if err != nil {
			t.Fatal(err)
		}
		err = Host().Connect(conf, slog.New(slog.DiscardHandler)).Publish(t.Context(), &publish.Report{
			Command: "ADD", Pod: request.Pod{Namespace: "n", Name: "p"}, ContainerID: "c",
			Attached: []publish.Attached{{
				Name: "a", IfName: "eth0", Primary: true,
				Result: []byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}]}`),
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		written, err := filepath.Glob(filepath.Join(dir, "status", "*.events.jsonl"))
		if err != nil || (len(written) > 0) != want {
			t.Errorf("events %q: written: %q, %v", events, written, err)
		}
	}
	conf := &config.Plugin{Name: "n", Events: "all", CNIVersion: "1.0.0"}
	c := Host().Connect(conf, slog.New(slog.DiscardHandler))
	for command, refused := range map[string]bool{request.Add: true, request.Del: false} {
		_, err := c.Plan(t.Context(), &request.Request{Command: command}, conf)
		if refused != (err != nil && strings.Contains(err.Error(), `events is "all"`)) {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// TestPublish checks that a status whose loss fails the ADD is retried while that may help, for statusLimit at most. A
// status that fails for good, or for which no pod waits, is tried once.
func TestPublish(t *testing.T) {
	t.Parallel()
	retry := fmt.Errorf("%w: the server is overloaded", publish.ErrRetry)
	for name, tc := range map[string]struct {
		answers []error
		needed  bool
		asked   int // 0: more than three times
		ok      bool
	}{
		"at once":           {[]error{nil}, true, 1, true},
		"overloaded, twice": {[]error{retry, retry, nil}, true, 3, true},
		"always overloaded": {[]error{retry}, true, 0, false},
		"not permitted":     {[]error{publish.ErrForbidden, nil}, true, 1, false},
		"a plain pod":       {[]error{retry, nil}, false, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &scriptedCluster{answers: tc.answers}
				p := &thin{
					log:     slog.New(slog.DiscardHandler),
					sources: func() (*source.Sources, error) { return &source.Sources{Cluster: b}, nil },
				}
				begin := time.Now()
				err := p.Publish(t.Context(), &publish.Report{
					Command: "ADD", Pod: request.Pod{Namespace: "n", Name: "p"}, Needed: tc.needed,
					Attached: []publish.Attached{{
						Name: "a", IfName: "eth0", Primary: true,
						Result: []byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}]}`),
					}},
				})
				if (err == nil) != tc.ok || tc.asked > 0 && b.asked != tc.asked || tc.asked == 0 && b.asked <= 3 ||
					time.Since(begin) > statusLimit {
					t.Errorf("sent %d requests in %s: %v", b.asked, time.Since(begin), err)
				}
				// An event reports what was attached, unless it was undone.
				event := "AddedInterface"
				if tc.needed && !tc.ok {
					event = "FailedAddingInterface"
				}
				if len(b.events) != 1 || b.events[0] != event {
					t.Errorf("events: %q, want %s", b.events, event)
				}
				if last := tc.answers[min(b.asked, len(tc.answers))-1]; !errors.Is(err, last) {
					t.Errorf("%v, want %v", err, last)
				}
			})
		})
	}
}
