package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// TestMissing checks the table "What happens when something is missing" (docs/architecture.md). It runs each row with a
// daemon that is dead, with one that is stopped (SIGSTOP) and with one that returns while an ADD waits for it, each
// with and without an API server. The rows with a running daemon are in TestOutage and TestPods.
func TestMissing(t *testing.T) {
	for _, daemon := range []string{"dead", "stopped"} {
		for _, up := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s-%t", daemon, up), func(t *testing.T) {
				t.Parallel() // the test waits most of the time
				proxy := server(t).Proxy(t)
				s := newSite(t, node.Thick, node.Options{
					Kubeconfig: proxy.Kubeconfig(t), API: proxy.Addr(),
					Conf: map[string]any{"plainPods": "local", "daemonTimeout": "2s"},
				})
				// The daemon has cached the definition after this, so that failures below are caused only by the missing daemon.
				warm := s.pod(t, "warm", map[string]string{networks: "mac"}, true)
				if _, err := s.Add(t, s.Conf(), warm); err != nil {
					t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
				}
				s.missing(t, proxy, daemon == "dead", up)
				s.gone(t, s.Conf(), warm)
			})
		}
	}
}

func (s *site) missing(t *testing.T, proxy *kubetest.Proxy, dead, up bool) {
	t.Helper()
	plain := s.pod(t, "plain", nil, true)
	annotated := s.pod(t, "annotated", map[string]string{networks: "mac"}, true)
	undefined := s.pod(t, "undefined", map[string]string{networks: "nope"}, true)
	waits := s.pod(t, "waits", map[string]string{networks: "mac"}, true)
	back := func() { s.Signal(t, syscall.SIGCONT) }
	if dead {
		back = func() { s.StartDaemon(t) }
		s.StopDaemon(t)
	} else {
		s.Signal(t, syscall.SIGSTOP)
	}
	if !up {
		proxy.Down()
	}
	if _, err := s.Add(t, s.Conf(), plain); err != nil {
		t.Errorf("ADD of a plain pod: %v", err)
	}
	if got := testnet.Interfaces(t, plain.NS); len(got) != 1 {
		t.Errorf("the plain pod has %v, want the cluster network", got)
	}
	s.refused(t, s.Conf(), annotated, s.ns+"/annotated", s.SocketDir())
	s.refused(t, s.Conf(), undefined, s.ns+"/undefined")
	if err := s.Del(t, s.Conf(), plain); err != nil {
		t.Errorf("DEL of the plain pod: %v", err)
	}
	if _, err := s.Add(t, s.Conf(), plain); err != nil {
		t.Errorf("second ADD of the plain pod: %v", err)
	}
	// If the daemon returns in time, ADD succeeds with the definitions that the daemon has cached or can request.
	if up || !dead {
		conf := edited(t, s.Conf(), map[string]any{"daemonTimeout": "20s"})
		timer := time.AfterFunc(500*time.Millisecond, back)
		defer timer.Stop()
		if _, err := s.Add(t, conf, waits); err != nil {
			t.Errorf("ADD while the daemon comes back: %v\n%s", err, s.DaemonLog())
		}
		if got := testnet.Interfaces(t, waits.NS); len(got) != 2 {
			t.Errorf("it has %v, want two interfaces", got)
		}
	} else {
		back()
	}
	proxy.Up()
	s.eventually(t, "the plain pod's status", func() bool {
		_, ok := s.api.Annotation(t, s.ns, "plain", status)
		return ok
	})
	for _, p := range []*node.Pod{plain, waits, annotated, undefined} {
		s.gone(t, s.Conf(), p)
	}
}
