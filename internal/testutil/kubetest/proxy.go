package kubetest

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy forwards TCP to the API server. With it a test can disconnect one client while others stay connected.
type Proxy struct {
	tb      testing.TB
	cluster *Cluster
	addr    string
	wg      sync.WaitGroup
	// up and down count bytes. See Bytes.
	up, down atomic.Int64

	// mu guards the fields below. It is never held while a connection is dialled or copied.
	mu       sync.Mutex
	listener net.Listener // nil while down
	conns    map[net.Conn]bool
}

// Proxy returns a new proxy that is up and lives as long as the test.
func (c *Cluster) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	ports, err := freePorts(1)
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{tb: tb, cluster: c, addr: net.JoinHostPort("127.0.0.1", ports[0]), conns: map[net.Conn]bool{}}
	if err := p.listen(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		p.Down()
		p.wg.Wait()
	})
	return p
}

// Addr returns the host:port of the proxy. It stays the same while the proxy is down.
func (p *Proxy) Addr() string { return p.addr }

// Bytes returns the number of bytes that went through the proxy so far, to the API server and from it, as TCP payload
// with TLS.
func (p *Proxy) Bytes() (up, down int) { return int(p.up.Load()), int(p.down.Load()) }

// counter counts the bytes written to a connection. It hides ReadFrom, which io.Copy would otherwise call instead of
// Write.
type counter struct {
	to io.Writer
	n  *atomic.Int64
}

func (c counter) Write(b []byte) (int, error) {
	n, err := c.to.Write(b)
	c.n.Add(int64(n))
	return n, err //nolint:wrapcheck // as a writer it gives what the connection gives
}

// Kubeconfig is like Cluster.Kubeconfig, with the address of the proxy.
func (p *Proxy) Kubeconfig(tb testing.TB) string {
	tb.Helper()
	return p.cluster.KubeconfigFor(tb, p.addr, p.cluster.token)
}

// Down closes all connections and refuses new ones.
func (p *Proxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	for c := range p.conns {
		_ = c.Close()
	}
}

// Up accepts connections again after Down.
func (p *Proxy) Up() {
	p.tb.Helper()
	if err := p.listen(); err != nil {
		p.tb.Fatal(err)
	}
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return nil
	}
	ln, err := net.Listen("tcp", p.addr)
	if err != nil {
		return fmt.Errorf("listen as proxy: %w", err)
	}
	p.listener = ln
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return // ln was closed by Down
			}
			p.wg.Go(func() { p.forward(ln, c) })
		}
	})
	return nil
}

// forward copies in both directions until one side ends. Then it closes both, because HTTP needs no half-closed
// connections.
func (p *Proxy) forward(ln net.Listener, client net.Conn) {
	defer func() { _ = client.Close() }()
	if !p.track(ln, client) {
		return
	}
	defer p.untrack(client)
	server, err := net.DialTimeout("tcp", p.cluster.addr, callTimeout)
	if err != nil {
		return // the client sees its connection closed
	}
	defer func() { _ = server.Close() }()
	if !p.track(ln, server) {
		return
	}
	defer p.untrack(server)
	var wg sync.WaitGroup
	for _, way := range []struct {
		to, from net.Conn
		bytes    *atomic.Int64
	}{{client, server, &p.down}, {server, client, &p.up}} {
		wg.Go(func() {
			_, _ = io.Copy(counter{way.to, way.bytes}, way.from)
			_, _ = client.Close(), server.Close()
		})
	}
	wg.Wait()
}

// track registers a connection, so that Down closes it. It returns false if Down has been called since ln was opened.
func (p *Proxy) track(ln net.Listener, c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != ln {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) untrack(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}
