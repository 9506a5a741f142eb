package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// with runs fn with p as the pod of the site.
func (s *site) with(p *node.Pod, fn func()) {
	old, prev := s.pod, s.prev
	s.pod, s.prev = p, nil
	defer func() { s.pod, s.prev = old, prev }()
	fn()
}

// alive checks that a pod has everything that its ADD attached.
func (s *site) alive(t *testing.T, r *row, p *node.Pod, want int, what string) {
	t.Helper()
	if got := interfaces(t, p.NS); len(got) != want {
		r.bad(t, &r.interfaces, 1, "%s: live pod %s has only %v", what, p.Name, got)
	}
	addresses := 0
	for _, path := range s.Left(t) {
		if strings.HasPrefix(path, "ipam/") {
			b, err := os.ReadFile(filepath.Join(s.Dir, path))
			check(t, err)
			if strings.HasPrefix(string(b), p.ContainerID) {
				addresses++
			}
		}
	}
	if addresses != want {
		r.bad(t, &r.addresses, 1, "%s: live pod %s holds %d addresses, want %d", what, p.Name, addresses, want)
	}
	s.with(p, func() {
		if err := s.call(t, "CHECK"); err != nil {
			r.bad(t, &r.stuck, 1, "%s: CHECK of live pod %s: %v", what, p.Name, err)
		}
	})
}

func (s *site) add(t *testing.T, p *node.Pod) {
	t.Helper()
	if err := s.start(t, p, "ADD").end(); err != nil {
		t.Errorf("ADD of %s: %v", p.Name, err)
	}
}

// TestGC checks that sandboxes that the runtime does not list are freed and that live ones are not touched. The
// namespaces of the unlisted sandboxes exist or not, and some of them are known only from the record or only from
// libcni's cache.
func TestGC(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newSite(t, kind, variants[3], nil)
		r := table.row("GC of lost sandboxes")
		r.try()
		live, gone, there, unrecorded, killed := s.makePod(t, "live"), s.makePod(t, "gone"), s.makePod(t, "there"),
			s.makePod(t, "unrecorded"), s.makePod(t, "killed")
		for _, p := range []*node.Pod{live, gone, there, unrecorded} {
			s.add(t, p)
		}
		_ = s.start(t, killed, "ADD", "MULTUS_FAILPOINT=exec.after:3").end()
		check(t, testnet.Delete(gone.Path))
		check(t, os.Remove(filepath.Join(s.State(), unrecorded.ContainerID)))
		back := s.away(t)
		err := s.gc(t, nil, live)
		back()
		if err != nil {
			r.bad(t, &r.stuck, 1, "GC: %v", err)
		}
		for _, p := range []*node.Pod{there, unrecorded, killed} {
			if left := interfaces(t, p.NS); len(left) > 0 {
				r.bad(t, &r.interfaces, len(left), "GC leaves %v in pod %s", left, p.Name)
			}
		}
		s.alive(t, r, live, 3, "GC")
		s.with(live, func() {
			s.del(t, r, "live")
			s.clean(t, r, "all")
		})
	})
}

// TestGCWhileAdding checks that GC does not touch a pod that is attached after GC has read the records, nor pods whose
// ADD is running.
func TestGCWhileAdding(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, _ int, kind node.Kind) {
		s := newSite(t, kind, variants[3], nil)
		r := table.row("GC while pods are added")
		var pods []*node.Pod
		for i := range 4 {
			pods = append(pods, s.makePod(t, fmt.Sprintf("p%d", i)))
		}
		r.try()
		trace := filepath.Join(t.TempDir(), "trace")
		done := make(chan error, 1)
		p := s.startGC(t, []string{"MULTUS_FAILPOINT=gc.listed=2s", "MULTUS_FAILPOINT_TRACE=" + trace}, pods[0])
		go func() { done <- p.end() }()
		waitFor(t, "GC lists", func() bool { b, _ := os.ReadFile(trace); return strings.Contains(string(b), "gc.listed") })
		s.add(t, pods[0])
		s.add(t, pods[1]) // in no list
		if err := <-done; err != nil {
			r.bad(t, &r.stuck, 1, "GC: %v", err)
		}
		s.alive(t, r, pods[0], 3, "listed")
		s.alive(t, r, pods[1], 3, "added after GC looked")

		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r.try()
				var ce *types.Error
				err := s.gc(t, nil, pods...)
				if errors.As(err, &ce) && ce.Code == types.ErrTryAgainLater {
					continue // on a busy machine the daemon may take longer than GC waits
				}
				if err != nil {
					r.bad(t, &r.stuck, 1, "GC: %v", err)
					return
				}
			}
		})
		for end := time.Now().Add(duration() / 8); time.Now().Before(end); {
			for _, p := range pods[2:] {
				s.add(t, p)
				s.alive(t, r, p, 3, "loop")
				if err := s.start(t, p, "DEL").end(); err != nil {
					r.bad(t, &r.stuck, 1, "DEL of %s: %v", p.Name, err)
				}
			}
		}
		close(stop)
		wg.Wait()
		for _, p := range pods[:2] {
			s.with(p, func() { s.del(t, r, "end") })
		}
		s.clean(t, r, "end")
	})
}
