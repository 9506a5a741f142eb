package e2e

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// slowAPI is a relay to the API server that can delay clients.
type slowAPI struct {
	addr, kubeconfig string

	// mu guards the fields below.
	mu     sync.Mutex
	pause  time.Duration
	gate   chan struct{} // nil, or closed by release
	queued int
	conns  map[net.Conn]bool
}

// newSlowAPI returns a relay that delays nothing yet and lives as long as the test.
func newSlowAPI(t *testing.T) *slowAPI {
	t.Helper()
	api := server(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &slowAPI{
		addr: l.Addr().String(), kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"),
		conns: map[net.Conn]bool{},
	}
	b, err := os.ReadFile(api.Kubeconfig(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.kubeconfig, []byte(strings.ReplaceAll(string(b), api.Addr(), s.addr)), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.relay(c, api.Addr()) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.release()
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *slowAPI) relay(in net.Conn, addr string) {
	out, err := net.Dial("tcp", addr)
	if err != nil {
		_ = in.Close()
		return
	}
	s.mu.Lock()
	s.conns[in], s.conns[out] = true, true
	s.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(in, out)
		_, _ = in.Close(), out.Close()
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		s.wait()
		if n > 0 {
			_, err = out.Write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	_, _ = in.Close(), out.Close()
	wg.Wait()
}

// wait delays what a client has sent.
func (s *slowAPI) wait() {
	s.mu.Lock()
	pause, gate := s.pause, s.gate
	if gate != nil {
		s.queued++
	}
	s.mu.Unlock()
	time.Sleep(pause)
	if gate != nil {
		<-gate
	}
}

// slow sets the delay of everything that clients send.
func (s *slowAPI) slow(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause = d
}

// hold keeps back what clients send from now on, until release.
func (s *slowAPI) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate, s.queued = make(chan struct{}), 0
}

func (s *slowAPI) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate != nil {
		close(s.gate)
		s.gate = nil
	}
}

// waiting returns when something is kept back.
func (s *slowAPI) waiting(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(waitTimeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		n := s.queued
		s.mu.Unlock()
		if n > 0 {
			return
		}
	}
	t.Fatal("no request to the API server")
}
