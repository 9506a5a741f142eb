package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/testutil/node"
)

// attachedPod is a pod that was attached and stays attached.
type attachedPod struct {
	pod    *node.Pod
	result json.RawMessage
	names  []string
}

// gone is an API server that is unavailable: it closes the connection of each request.
func gone(http.ResponseWriter, *http.Request, http.Handler) bool { panic(http.ErrAbortHandler) }

// goAway makes the API server unavailable and closes the connections that are open, including watches.
func (f *frontend) goAway() {
	f.misbehave(gone)
	f.server.CloseClientConnections()
}

// absences attaches and deletes pods while the API server becomes unavailable and available at random, and then while
// it stays unavailable, for minutes in a long run. Plain pods start at any time. Annotated pods start, or fail with
// code 11 and the reason. Once the API server is available, the network status of every pod is right.
func (s *apiSite) absences(t *testing.T) {
	t.Helper()
	flicker, away := 2*time.Second, 3*time.Second
	if long() {
		flicker, away = 30*time.Second, 3*time.Minute
	}
	s.absence(t, fmt.Sprintf("API server unavailable at random, %s", s.kind), flicker, false, func(done <-chan struct{}) {
		for {
			select {
			case <-done:
				return
			case <-time.After(rand.N(700 * time.Millisecond)):
			}
			if rand.IntN(2) == 0 {
				s.front.goAway()
			} else {
				s.front.misbehave(nil)
			}
		}
	})
	s.absence(t, fmt.Sprintf("API server unavailable for %s, %s", away, s.kind), away, long() &&
		s.kind == node.Thick, func(done <-chan struct{}) {
		s.front.goAway()
		<-done
	})
}

// absence attaches pods for a time. during sets the state of the API server until done is closed. With restart the
// daemon is restarted after half of the time, and the new daemon has no cached definitions.
func (s *apiSite) absence(t *testing.T, fault string, lasts time.Duration, restart bool,
	during func(done <-chan struct{}),
) {
	t.Helper()
	r := table.row(fault)
	s.startPod(t, r, "before", "plain", false)
	s.removePod(t, r)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() { during(done) })
	var stay []attachedPod
	refused := 0
	const most = 40 // number of pods that stay, with as many reports that wait
	start := time.Now()
	for n := 0; time.Since(start) < lasts; n++ {
		if restart && time.Since(start) > lasts/2 {
			restart = false
			s.StopDaemon(t)
			s.StartDaemon(t)
			s.restarted = true
		}
		networks := []string{"", "plain"}[n%2]
		p, err := s.startPod(t, r, "pod", networks, networks != "")
		if err != nil {
			refused++
		}
		if p == nil || len(stay) >= most || n%4 > 1 {
			s.removePod(t, r)
			continue
		}
		stay = append(stay, *p)
	}
	close(done)
	wg.Wait()
	s.front.misbehave(nil)
	s.restarted = false
	t.Logf("%s: %d pods stay, %d were refused", fault, len(stay), refused)
	for i := range stay {
		s.pod, s.prev = stay[i].pod, stay[i].result
		s.statusIs(t, r, s.pod.Name, stay[i].names)
	}
	if _, err := s.startPod(t, r, "after", "plain", false); err == nil {
		s.statusIs(t, r, "after", []string{"cluster", s.ns + "/plain"})
	}
	s.removePod(t, r)
	for i := range stay {
		s.pod, s.prev = stay[i].pod, stay[i].result
		s.removePod(t, r)
	}
	s.clean(t, r, "after all")
	if s.kind == node.Thick && !waitFor(t, "nothing waits", func() bool { return len(s.waiting(t)) == 0 }) {
		r.bad(t, &r.records, len(s.waiting(t)), "reports left: %v", s.waiting(t))
	}
}

// startPod creates a new pod of the site and attaches it. With mayFail, an error that says that the API server is
// unavailable is allowed.
func (s *apiSite) startPod(t *testing.T, r *row, name, networks string, mayFail bool) (*attachedPod, error) {
	t.Helper()
	r.try()
	s.podCount++
	s.makePod(t, fmt.Sprintf("%s-%d", name, s.podCount), networks)
	names := []string{"cluster"}
	if networks != "" {
		names = append(names, s.ns+"/"+networks)
	}
	err := s.call(t, "ADD")
	if err == nil {
		return &attachedPod{s.pod, bytes.Clone(s.prev), names}, nil
	}
	// The runtime passed the annotations. A daemon has cached the definition, unless it was restarted since.
	mayFail = mayFail && (s.kind == node.Thin || s.restarted)
	var ce *types.Error
	if !mayFail || !errors.As(err, &ce) || ce.Code != types.ErrTryAgainLater ||
		!strings.Contains(ce.Error(), "API server") {
		r.bad(t, &r.stuck, 1, "ADD of %s, networks %q: %v", s.pod.Name, networks, err)
	}
	return nil, err
}

// removePod deletes the pod of the site.
func (s *apiSite) removePod(t *testing.T, r *row) {
	t.Helper()
	s.del(t, r, "DEL of "+s.pod.Name)
	s.cluster.DeletePod(t, s.ns, s.pod.Name)
}
