package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/client-go/tools/clientcmd"
)

// Outside makes the cluster reachable for clients outside of the node. It forwards a port of this machine's loopback
// interface to the API server, and returns the path of the administrator's kubeconfig file for that port. Forwarding
// ends with the context.
func (c *Cluster) Outside(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for the API server: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // l was closed above
			}
			go c.forward(ctx, conn)
		}
	}()
	config, err := clientcmd.LoadFromFile(filepath.Join(c.dir, "kubeconfig"))
	if err != nil {
		return "", fmt.Errorf("read kubeconfig: %w", err)
	}
	for _, cluster := range config.Clusters {
		cluster.Server, cluster.TLSServerName = "https://"+l.Addr().String(), serviceIP
	}
	b, err := clientcmd.Write(*config)
	if err != nil {
		return "", fmt.Errorf("write kubeconfig: %w", err)
	}
	path := filepath.Join(c.dir, "outside.kubeconfig")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return "", fmt.Errorf("write kubeconfig: %w", err)
	}
	return path, nil
}

// forward copies in both directions until one side or the context ends.
func (c *Cluster) forward(ctx context.Context, from net.Conn) {
	defer func() { _ = from.Close() }()
	to, err := c.Dial(ctx, "tcp", net.JoinHostPort(serviceIP, "443"))
	if err != nil {
		return // the client sees its connection closed
	}
	closeBoth := func() { _, _ = from.Close(), to.Close() }
	defer context.AfterFunc(ctx, closeBoth)()
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
		wg.Go(func() {
			// The structs hide ReadFrom and WriteTo. With them io.Copy would call splice, and Go caches the pipes of splice:
			// tests that count open descriptors would fail.
			_, _ = io.Copy(struct{ io.Writer }{pair[0]}, struct{ io.Reader }{pair[1]})
			closeBoth()
		})
	}
	wg.Wait()
}
