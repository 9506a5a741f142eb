package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"multus/internal/config"
	"multus/internal/engine"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// pollInterval is the interval at which the ledger is read while Uninstall waits for pods.
const pollInterval = time.Second

// detach frees what ended sandboxes hold. It returns when nothing is attached any more, or ErrAttached or
// ErrInstalledAgain.
func (r Removal) detach(ctx context.Context) error {
	over := time.After(r.Wait)
	logged := ""
	for {
		attached, err := r.free(ctx)
		if err != nil || len(attached) == 0 {
			return err
		}
		if err := r.installedAgain(ctx); err != nil {
			return err
		}
		if now := list(attached); now != logged && r.Wait > 0 {
			logged = now
			r.Log.Info("waiting for pods that are attached through Multus", "attached", now, "limit", r.Wait)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for pods that are attached through Multus: %w", ctx.Err())
		case <-over:
			return fmt.Errorf("%w: %s. No new pod gets networks from Multus; its plugins stay: DEL of these pods needs them. "+
				"Delete them, or drain the node, and run this again; --wait waits for them; --force removes the plugins now and "+
				"leaves the resources of the pods reserved",
				ErrAttached, list(attached))
		case <-time.After(pollInterval):
		}
	}
}

// free deletes the sandboxes of the ledger that have ended without a call of Multus, and returns the others. It
// executes the DEL of all their networks, including the cluster network. If the runtime has already executed that one,
// it is executed twice, which CNI permits (CNI SPEC 1.1 §DEL). If not, no other program would execute it.
func (r Removal) free(ctx context.Context) (attached []string, _ error) {
	conf, err := json.Marshal(map[string]string{
		"cniVersion": "1.0.0", "name": "multus-cni-network", "type": shim, "cniDir": r.StateDir, "binDir": r.BinDir,
	})
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	e := engine.New(engine.Deps{
		Planner: replayOnly{}, Publisher: replayOnly{}, Status: replayOnly{}, LockFile: r.LockFile,
		Boot: r.Boot, Log: r.Log,
	})
	gone, err := e.Collect(ctx, &request.Request{Command: request.Del, Path: r.BinDir, Config: conf}, 0, false)
	if err != nil {
		return nil, err
	}
	for _, g := range gone {
		if g.Err != nil {
			r.Log.Error("cannot free the resources of a deleted sandbox", "container", g.ContainerID, "pod", g.Pod, "networks",
				g.Networks, "err", g.Err)
		}
	}
	return r.attached()
}

// attached returns the sandboxes of the ledger.
func (r Removal) attached() ([]string, error) {
	store := &ledger.Store{Dir: r.StateDir, Log: r.Log}
	ids, err := store.Containers()
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	for i, id := range ids {
		if rec, err := store.Read(id, ledger.DefaultIfName); err == nil && rec != nil {
			ids[i] = describe(rec)
		} // a record that cannot be read is listed by its ID
	}
	return ids, nil
}

// replayOnly replaces the planner, the publisher and the cache of an engine that only replays the ledger.
type replayOnly struct{}

var (
	_ engine.Planner     = replayOnly{}
	_ engine.Publisher   = replayOnly{}
	_ engine.StatusCache = replayOnly{}
)

// errNotRecorded is returned by the planner for a sandbox without a record. Such a sandbox needs no DEL.
var errNotRecorded = errors.New("only what is recorded is deleted")

func (replayOnly) Plan(context.Context, *request.Request, *config.Plugin) (*plan.Plan, error) {
	return nil, errNotRecorded
}

func (replayOnly) Publish(context.Context, *publish.Report) error { return nil }
func (replayOnly) Get(context.Context, []byte) (error, bool)      { return nil, false }
func (replayOnly) Put(context.Context, []byte, error)             {}
