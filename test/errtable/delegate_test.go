package errtable

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"k8s.io/utils/clock"

	"multus/internal/agent/hotplug"
	"multus/internal/config"
	"multus/internal/engine"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/testutil/testnet"
)

// delegates returns the errors of requests for one network of a running pod.
func delegates() []produced {
	type verb = func(*engine.Engine, context.Context, *request.Request) error
	running := func(do verb) func(*testing.T) error {
		return func(t *testing.T) error {
			t.Helper()
			s := newSite(t, cluster)
			if err := s.add(t, container, "", longLimit); err != nil {
				t.Fatal(err)
			}
			testnet.Bridge(t, s.pod, "eth0") // the plugins of the site make no interfaces
			return do(s.engine, t.Context(), s.request(request.Update, container, ""))
		}
	}
	queued := func(ctx context.Context, runners int) func(*testing.T) error {
		return func(t *testing.T) (err error) {
			t.Helper()
			synctest.Test(t, func(*testing.T) {
				q := hotplug.New(clock.RealClock{}, slog.New(slog.DiscardHandler))
				runs, cancel := context.WithCancel(ctx)
				go func() { _ = q.Run(runs) }()
				ended := make(chan struct{})
				go func() {
					_, err = q.Delegate(ctx, &hotplug.Delegation{Pod: request.Pod{Namespace: "team", Name: "web-0"}, IfName: "net1"})
					close(ended)
				}()
				for range runners {
					synctest.Wait()
					now, stop := context.WithTimeout(ctx, 0)
					q.Next(now)
					stop()
					q.Delegations()
				}
				<-ended
				cancel()
			})
			return err
		}
	}
	return []produced{
		{"request for a network that the annotation does not name", func(t *testing.T) error {
			t.Helper()
			conf, err := config.ParsePlugin([]byte(`{"clusterNetwork":"x","runtimeConfig":{"` + config.PodAnnotations + `":{}}}`))
			if err != nil {
				return err
			}
			r := &plan.Resolver{Log: slog.New(slog.DiscardHandler)}
			_, err = r.Delegate(t.Context(), podRequest("c1"), conf, nil, &plan.Wanted{IfName: "net1"})
			return err
		}},
		{"a sandbox that is gone", running(func(e *engine.Engine, ctx context.Context, req *request.Request) error {
			req.ContainerID = "c9"
			_, err := e.Attach(ctx, req, "", nil, "net1")
			return err
		})},
		{"DEL of the cluster network", running(func(e *engine.Engine, ctx context.Context, req *request.Request) error {
			return e.Detach(ctx, req, "", "eth0", "")
		})},
		{"CHECK of what is not attached", running(func(e *engine.Engine, ctx context.Context, req *request.Request) error {
			return e.CheckOne(ctx, req, "", "net1", "")
		})},
		{"no runner takes the request", queued(context.Background(), 0)},
		{"no runner finishes the request", queued(context.Background(), 3)},
	}
}
