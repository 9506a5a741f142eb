package engine

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// podPlanner is planner with a pod, so that there are reports.
type podPlanner struct{ planner }

func (p podPlanner) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	out, err := p.planner.Plan(ctx, req, conf)
	out.Pod = request.Pod{Namespace: "team", Name: "web"}
	return out, err
}

// received records the reports that arrive while their context has not ended.
type received struct{ reports []*publish.Report }

func (r *received) Publish(ctx context.Context, report *publish.Report) error {
	if ctx.Err() == nil {
		r.reports = append(r.reports, report)
	}
	return ctx.Err()
}

// TestTimingsOfAdd checks what the reports of an ADD say about its time, and about why a delegate was killed (behaviour
// F72). The report arrives although the time of the ADD is over.
func TestTimingsOfAdd(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		does, killed string
		limit        time.Duration
		cancel       bool
	}{
		"succeeds":      {"true", "", time.Minute, false},
		"fails":         {"exit 1", "", time.Minute, false},
		"out of memory": {"kill -9 $$", "signal", time.Minute, false},
		"hangs":         {"echo > $dir/begun; exec sleep 1000", "timeout", 300 * time.Millisecond, false},
		"runtime":       {"echo > $dir/begun; exec sleep 1000", "cancelled", time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, got := newNode(t, "cluster"), &received{}
			n.engine.deps.Planner, n.engine.deps.Publisher, n.engine.deps.Netns = podPlanner{}, got, interfaces(nil)
			script := []byte("if test $CNI_COMMAND = ADD; then " + tc.does + "; fi")
			if err := os.WriteFile(filepath.Join(n.dir, "cluster.do"), script, 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), tc.limit)
			defer cancel()
			if tc.cancel {
				go func() {
					for _, err := os.Stat(filepath.Join(n.dir, "begun")); err != nil && ctx.Err() == nil; {
						_, err = os.Stat(filepath.Join(n.dir, "begun"))
					}
					cancel()
				}()
			}
			req := n.request(request.Add, "c", `,"failureEvents":true`)
			req.Args = request.Args{{"K8S_POD_NAMESPACE", "team"}, {"K8S_POD_NAME", "web"}}
			_, err := n.engine.Add(ctx, req)
			failed := tc.does != "true"
			if (err != nil) != failed || len(got.reports) != 1 && !failed || failed && len(got.reports) != 2 {
				t.Fatalf("%v, %d reports", err, len(got.reports))
			}
			last := got.reports[len(got.reports)-1]
			first := got.reports[0].Trace
			if first.Seconds <= 0 || first.Repeated || last.Trace.Repeated != failed || (last.Failure != nil) != failed {
				t.Errorf("%+v, %+v", first, last)
			}
			var calls []string
			for _, c := range got.reports[0].Timings {
				calls = append(calls, cmp.Or(c.Command, request.Add)+" "+c.Killed)
			}
			want := []string{"ADD " + tc.killed}
			if failed {
				want = append(want, "DEL ") // its undo
			}
			if !slices.Equal(calls, want) {
				t.Errorf("calls %q, want %q", calls, want)
			}
		})
	}
}
