package admission

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"multus/internal/admission/cert"
	"multus/internal/testutil/eventually"
)

// balancer is a TCP address with several replicas behind it, in turns, like a Service.
type balancer struct {
	addr string

	mu    sync.Mutex
	conns map[net.Conn]bool
	turn  int
}

func newBalancer(tb testing.TB, replicas ...string) *balancer {
	tb.Helper()
	ln, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	b := &balancer{addr: ln.Addr().String(), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { b.forward(c, replicas) })
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		b.disconnect()
		wg.Wait()
	})
	return b
}

// forward connects one client with the next replica that answers.
func (b *balancer) forward(client net.Conn, replicas []string) {
	defer client.Close()
	for range replicas {
		b.mu.Lock()
		b.turn++
		addr := replicas[b.turn%len(replicas)]
		b.mu.Unlock()
		server, err := (&net.Dialer{}).Dial("tcp", addr)
		if err != nil {
			continue
		}
		defer server.Close()
		b.mu.Lock()
		b.conns[client] = true
		b.mu.Unlock()
		var wg sync.WaitGroup
		pipe := func(to, from net.Conn) {
			_, _ = io.Copy(to, from)
			_ = to.Close()
			_ = from.Close()
		}
		wg.Go(func() { pipe(server, client) })
		wg.Go(func() { pipe(client, server) })
		wg.Wait()
		b.mu.Lock()
		delete(b.conns, client)
		b.mu.Unlock()
		return
	}
}

// disconnect ends all connections. The clients see that no more data comes, and close their ends.
func (b *balancer) disconnect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
	}
}

// connections returns the number of connections.
func (b *balancer) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// load sends broken definitions to the API server, which would be stored if a call of the webhook failed.
type load struct {
	tb            testing.TB
	balancer      *balancer
	calls, failed atomic.Int64
	pause         sync.RWMutex // it is write-locked while no request may be in flight
	// end ends the load, and fails the test if a call failed. The end of the test calls it, too.
	end func()
}

// load starts a load on the webhook behind a balancer.
func (s *site) load(b *balancer) *load {
	s.tb.Helper()
	l := &load{tb: s.tb, balancer: b}
	done := make(chan struct{})
	var senders sync.WaitGroup
	send := func() {
		l.pause.RLock()
		defer l.pause.RUnlock()
		_, err := s.dyn.Resource(definitions).Namespace("default").Create(contextFor(s.tb),
			definition("default", "load", broken), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if n := l.calls.Add(1); err == nil || !strings.Contains(err.Error(), "denied the request") {
			if l.failed.Add(1) == 1 { // the others are counted
				s.tb.Errorf("call %d: a broken definition is not denied: %v", n, err)
			}
		}
	}
	for range 2 {
		senders.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					send()
				}
			}
		})
	}
	l.end = sync.OnceFunc(func() {
		close(done)
		senders.Wait()
		if n := l.failed.Load(); n > 0 {
			s.tb.Errorf("%d of %d calls failed", n, l.calls.Load())
		}
	})
	s.tb.Cleanup(l.end)
	return l
}

// more waits for ten more calls.
func (l *load) more() {
	l.tb.Helper()
	before := l.calls.Load()
	eventually.True(l.tb, "calls", func() bool { return l.calls.Load() > before+10 })
}

// reconnect ends the connections of the API server, so that it checks the certificate anew.
func (l *load) reconnect() {
	l.tb.Helper()
	l.pause.Lock() // no request is in flight
	defer l.pause.Unlock()
	l.balancer.disconnect()
	eventually.True(l.tb, "no connections", func() bool { return l.balancer.connections() == 0 })
}

// leaf returns the certificate that a replica serves, without checking it.
func leaf(tb testing.TB, addr string) *x509.Certificate {
	tb.Helper()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	c, err := d.DialContext(contextFor(tb), "tcp", addr)
	if err != nil {
		return nil
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// TestRenewal checks with a real API server that no call fails while two replicas renew their certificate, under load,
// and with new connections at each moment: each of the requests is for a broken definition, and would be allowed if a
// call failed. (behaviour S25.)
func TestRenewal(t *testing.T) {
	s := newSite(t)
	// The certificate is old enough to be renewed now, and valid now: the API server has the real clock.
	c := clocktesting.NewFakeClock(time.Now().Add(-cert.Lifetime*2/3 - time.Hour))
	first, second := s.start(`{}`, c), s.start(`{}`, c)
	b := newBalancer(t, first.webhook, second.webhook)
	s.point(port(b.addr))
	next := func(d time.Duration) {
		t.Helper()
		eventually.True(t, "both replicas wait", c.HasWaiters)
		c.Step(d)
	}
	eventually.True(t, "both replicas have a certificate", func() bool {
		next(time.Minute)
		one := leaf(t, first.webhook)
		return one != nil && one.Equal(leaf(t, second.webhook))
	})
	s.await()
	old := leaf(t, first.webhook)

	l := s.load(b)
	c.SetTime(time.Now())
	deadline := time.Now().Add(eventually.Timeout)
	for steps := 0; leaf(t, first.webhook).Equal(old) || leaf(t, second.webhook).Equal(old); steps++ {
		if time.Now().After(deadline) {
			t.Fatal("the certificate is not renewed")
		}
		l.more()
		l.reconnect()
		next(time.Minute)
	}
	before := l.calls.Load()
	for range 6 {
		l.reconnect()
		l.more()
	}
	l.end()
	all := l.calls.Load()
	t.Logf("%d calls, %d of them with the new certificate, %d failed", all, all-before, l.failed.Load())
}
