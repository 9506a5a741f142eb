package claims

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"multus/internal/device"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

const (
	// writers is the number of claims that are written at the same time. It is small, because the requests count for the
	// same limit as those of network statuses, for which pods may wait.
	writers = 2
	// firstRetry and lastRetry limit the pauses between the attempts of one pod.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// forbiddenPause is the pause after which forbiddenProbes of the pods for which the permission is missing are tried
	// again.
	forbiddenPause  = time.Minute
	forbiddenProbes = 2
	// checkEvery is the time between two comparisons of the notes with the ledger.
	checkEvery = time.Minute
	// maxNotes limits the pods with entries. A node has some hundreds of pods.
	maxNotes = 4096
)

// Options are the settings of a Writer. All of them are required.
type Options struct {
	Cluster publish.ClaimWriter
	// Drivers are the DRA drivers for whose devices the status is written.
	Drivers []string
	// Dir is the directory of the notes.
	Dir string
	// Recorded reports whether the ledger has a record of a sandbox.
	Recorded func(containerID string) bool
	Clock    clock.WithTicker
	Log      *slog.Logger
}

// Writer writes the status of ResourceClaims. For each pod it writes the latest, and never two at a time.
type Writer struct {
	cluster  publish.ClaimWriter
	drivers  []string
	recorded func(string) bool
	clock    clock.WithTicker
	log      *slog.Logger
	dir      string
	// work has the UIDs of the pods whose claims are to be written.
	work workqueue.TypedRateLimitingInterface[string]

	mu sync.Mutex // guards the fields below, and is held while notes are written
	// notes has the notes by the UIDs of their pods. A note is not changed: a change replaces it.
	notes map[string]*note
	// forbidden has the UIDs of the pods for which the permission is missing.
	forbidden map[string]bool
	// ledger reports whether the ledger had a record of any sandbox that was reported. If not, it is another one than that
	// of the plugins, and says nothing.
	ledger bool
}

// New returns a Writer, and reads the notes of an earlier daemon. It writes nothing to the cluster before Run is
// called.
func New(o Options) *Writer {
	w := &Writer{
		cluster: o.Cluster, drivers: o.Drivers, recorded: o.Recorded, clock: o.Clock, log: o.Log, dir: o.Dir,
		notes: map[string]*note{}, forbidden: map[string]bool{},
		work: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry),
			workqueue.TypedRateLimitingQueueConfig[string]{Clock: o.Clock}),
	}
	w.read()
	return w
}

// Run writes statuses until ctx ends, first those that an earlier daemon has left.
func (w *Writer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, w.work.ShutDown)
	defer stop()
	w.queueUnwritten()
	for range writers {
		g.Go(func() error {
			for w.next(ctx) {
			}
			return nil
		})
	}
	g.Go(func() error {
		w.follow(ctx)
		return nil
	})
	return g.Wait()
}

// queueUnwritten queues the pods whose entries are not as their notes say.
func (w *Writer) queueUnwritten() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid, n := range w.notes {
		if !n.Written {
			w.work.Add(uid)
		}
	}
}

// follow compares the notes with the ledger, and tries again what was forbidden, until ctx ends.
func (w *Writer) follow(ctx context.Context) {
	check, retry := w.clock.NewTicker(checkEvery), w.clock.NewTicker(forbiddenPause)
	defer check.Stop()
	defer retry.Stop()
	for {
		w.compare()
		select {
		case <-ctx.Done():
			return
		case <-check.C():
		case <-retry.C():
			w.retryForbidden(forbiddenProbes)
		}
	}
}

// Observe takes what a report says about ResourceClaims. A report that arrives twice changes nothing. It does not wait
// for the cluster.
func (w *Writer) Observe(r *publish.Report) {
	if !validUID(r.Pod.UID) || r.ContainerID == "" {
		return // without a UID it is a static pod, which has no claims
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var n *note
	switch {
	case r.Command == request.Del:
		n = w.deleted(r)
	case r.HasStatus():
		n = w.attached(r)
	}
	if n == nil {
		return
	}
	if err := w.limit(n); err != nil {
		w.log.Warn("status of ResourceClaims not written", "pod", r.Pod.LogName(), "err", err)
		return
	}
	w.store(n)
	w.work.Add(r.Pod.UID)
}

// attached returns the note for a report with attachments, or nil if it changes nothing.
func (w *Writer) attached(r *publish.Report) *note {
	devices, err := publish.ClaimedDevices(r)
	if err != nil {
		return nil // the network status has the same error, which is reported
	}
	devices = slices.DeleteFunc(devices, func(d publish.ClaimedDevice) bool { return !w.writable(&d.Claim, r.Pod) })
	known := w.notes[r.Pod.UID]
	if known == nil && len(devices) == 0 {
		return nil
	}
	has := w.recorded(r.ContainerID)
	w.ledger = w.ledger || has
	if w.ledger && !has {
		return nil // the sandbox was deleted in the meantime
	}
	n := &note{Pod: r.Pod, ContainerID: r.ContainerID, Time: r.Time, Devices: devices, Recorded: has}
	if known == nil {
		return n.withClaims(nil)
	}
	if known.ContainerID == n.ContainerID {
		if known.Gone && r.Time <= known.Time {
			return nil // the report of an ADD arrives after that of its DEL
		}
		if known.sameDevices(n) {
			return nil
		}
	}
	return n.withClaims(known.Claims)
}

// deleted returns the note for a DEL, or nil if it changes nothing.
func (w *Writer) deleted(r *publish.Report) *note {
	known := w.notes[r.Pod.UID]
	if known != nil {
		if known.ContainerID != r.ContainerID || known.Gone || r.Time != 0 && r.Time < known.Time {
			return nil // an earlier sandbox of the pod, or an earlier ADD of this one
		}
		return known.gone(r.Time)
	}
	n := &note{Pod: r.Pod, ContainerID: r.ContainerID, Time: r.Time, Gone: true}
	for i := range r.Claims {
		if c := &r.Claims[i]; w.writable(c, r.Pod) {
			n.Claims = append(n.Claims, publish.ClaimRef{Namespace: c.Namespace, Name: c.Name, UID: c.UID})
		}
	}
	if len(n.Claims) == 0 {
		return nil
	}
	return n.withClaims(nil)
}

// writable reports whether the status of a device is written for a pod. A pod has claims of its own namespace only.
func (w *Writer) writable(c *device.Claim, p request.Pod) bool {
	return c.Namespace == p.Namespace && slices.Contains(w.drivers, c.Driver)
}

// compare empties the notes of the sandboxes that are gone from the ledger.
func (w *Writer) compare() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid, n := range w.notes {
		if n.Recorded && !n.Gone && !w.recorded(n.ContainerID) {
			w.store(n.gone(n.Time))
			w.work.Add(uid)
		}
	}
}

// next writes the claims of the next pod. It returns false when ctx has ended.
func (w *Writer) next(ctx context.Context) bool {
	uid, ended := w.work.Get()
	if ended {
		return false
	}
	defer w.work.Done(uid)
	w.mu.Lock()
	n := w.notes[uid]
	w.mu.Unlock()
	if n != nil && ctx.Err() == nil {
		w.settle(n, w.write(ctx, n))
	}
	return ctx.Err() == nil
}

// write makes the entries of a pod in all of its claims those of its note. A claim that is gone, or that never accepts
// them, needs nothing more. Entries that the daemon is not permitted to remove are left to the API server: it removes
// them with the allocation of the claim.
func (w *Writer) write(ctx context.Context, n *note) error {
	var errs []error
	for _, ref := range n.Claims {
		s := &publish.ClaimStatus{ClaimRef: ref, Pod: n.Pod, Since: n.Time}
		for i := range n.Devices {
			if n.Devices[i].Ref() == ref {
				s.Devices = append(s.Devices, n.Devices[i])
			}
		}
		err := w.cluster.WriteClaim(ctx, s)
		switch {
		case errors.Is(err, publish.ErrGone):
			w.log.Debug("the ResourceClaim is gone", "pod", n.Pod.LogName(), "claim", ref.Name, "err", err)
		case n.Gone && errors.Is(err, publish.ErrForbidden):
			w.log.Debug("the entries in the ResourceClaim are left", "pod", n.Pod.LogName(), "claim", ref.Name,
				"err", fault.Text(err))
		case errors.Is(err, publish.ErrRefused):
			w.log.Error("status of a ResourceClaim given up", "pod", n.Pod.LogName(), "claim", ref.Name, "err", fault.Text(err))
		case err != nil:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// settle handles the outcome of an attempt.
func (w *Writer) settle(n *note, err error) {
	uid := n.Pod.UID
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.forbidden[uid]
	delete(w.forbidden, uid)
	granted := err == nil && was && !n.Gone // write succeeds for a pod that has ended, also without the permission
	if granted {
		w.queueForbidden(len(w.forbidden))
	}
	if granted || err == nil && w.work.NumRequeues(uid) > 0 {
		w.log.Info("status of ResourceClaims written", "pod", n.Pod.LogName(), "container", n.ContainerID)
	}
	if w.notes[uid] != n {
		return // it was changed meanwhile, and is queued
	}
	switch {
	case err == nil:
		w.work.Forget(uid)
		w.written(n)
	case errors.Is(err, publish.ErrForbidden):
		w.work.Forget(uid)
		w.postponeForbidden(n, was, err)
	default:
		if w.work.NumRequeues(uid) == 0 {
			w.log.Warn("status of ResourceClaims not written yet, trying again", "pod", n.Pod.LogName(), "container",
				n.ContainerID, "err", fault.Text(err))
		}
		w.work.AddRateLimited(uid)
	}
}

// postponeForbidden handles an attempt for which the permission is missing. The caller holds mu. was is set if that is
// known of the pod.
func (w *Writer) postponeForbidden(n *note, was bool, err error) {
	if !was {
		w.log.Error("status of ResourceClaims not written: add deploy/components/claim-status to the kustomization, with "+
			"the driver; a few are tried again periodically", "every", forbiddenPause.String(), "pod", n.Pod.LogName(),
			"err", fault.Text(err))
	}
	w.forbidden[n.Pod.UID] = true
}

// retryForbidden queues up to n of the pods for which the permission is missing.
func (w *Writer) retryForbidden(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queueForbidden(n)
}

func (w *Writer) queueForbidden(n int) {
	for uid := range w.forbidden {
		if n--; n < 0 {
			return
		}
		w.work.Add(uid)
	}
}

// Waiting returns the number of pods whose claims are not written yet.
func (w *Writer) Waiting() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting := 0
	for _, n := range w.notes {
		if !n.Written {
			waiting++
		}
	}
	return float64(waiting)
}
