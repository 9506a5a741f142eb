// Package client is the client of the daemon's unix socket: HTTP/1.1 without net/http, because every import adds to the
// start-up time of the plugin. It does not inspect the bodies, which wire/v1 defines. It is used by the hosts of the
// plugin and of the daemon, and by tools. It imports only the standard library and the CNI types.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	firstPause = 10 * time.Millisecond
	longPause  = 500 * time.Millisecond
	// maxAnswer bounds what is read from the daemon.
	maxAnswer = 32 << 20
)

// ErrUnreachable is wrapped by errors for a daemon that did not respond: no socket, connection refused, connection
// lost, timeout.
var ErrUnreachable = errors.New("daemon not reachable")

// ErrTooLarge is wrapped by the error for a response that is larger than the client reads. A retry would have the same
// result.
var ErrTooLarge = errors.New("answer too large")

// ErrPeer is wrapped by the error for a socket on which a process of another user listens.
var ErrPeer = errors.New("not a daemon of root")

// Client calls the daemon. A zero value with a Socket is ready to use, also concurrently.
type Client struct {
	// Socket is the path of the unix socket.
	Socket string
}

// Call sends in as JSON and decodes the response into out, which may be nil. A response that is a CNI error is returned
// as *types.Error. Each request has a connection of its own.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	body, err := encode(path, in)
	if err != nil {
		return err
	}
	status, answer, err := c.exchange(ctx, method, path, body)
	if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrPeer) {
		return fmt.Errorf("daemon at %s: %s: %w", c.Socket, path, err)
	}
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.Socket, err)
	}
	if status != 200 {
		ce := &types.Error{}
		if err := json.Unmarshal(answer, ce); err != nil || ce.Msg == "" {
			return fmt.Errorf("daemon at %s answered %d to %s: %q", c.Socket, status, path, clip(answer))
		}
		return ce
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode answer of the daemon to %s: %w", path, err)
	}
	return nil
}

// encode returns a request as JSON. It prefers the request's own AppendJSON, which costs the plugin less than
// encoding/json.
func encode(path string, in any) ([]byte, error) {
	switch v := in.(type) {
	case nil:
		return nil, nil
	case interface{ AppendJSON(b []byte) []byte }:
		return v.AppendJSON(nil), nil
	}
	b, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode request for %s: %w", path, err)
	}
	return b, nil
}

// Send is Call for a request that needs no response. It returns once the request is sent.
func (c *Client) Send(ctx context.Context, method, path string, in any) error {
	body, err := encode(path, in)
	if err != nil {
		return err
	}
	conn, err := c.send(ctx, method, path, body)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.Socket, err)
	}
	return conn.Close()
}

// Persist is Call, repeated with growing pauses until ctx ends while the daemon cannot be reached. It is only for
// requests that may be repeated.
func (c *Client) Persist(ctx context.Context, method, path string, in, out any) error {
	var last error // error of a call that was not cut off by ctx, which gives the reason
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := c.Call(ctx, method, path, in, out)
		if err == nil || !errors.Is(err, ErrUnreachable) {
			return err
		}
		if ctx.Err() != nil && last != nil {
			return last
		}
		last = err
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func (c *Client) exchange(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	conn, err := c.send(ctx, method, path, body)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	status, answer, err := readAnswer(bufio.NewReader(io.LimitReader(conn, maxAnswer)))
	return status, answer, contextCause(ctx, err)
}

// send writes a request to a new connection.
func (c *Client) send(ctx context.Context, method, path string, body []byte) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	// A net.Dialer would make the plugin a quarter of a megabyte larger: it links the resolver of names and the client of
	// TCP. To connect to a unix socket takes no time that a context could limit.
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Socket, Net: "unix"})
	if err != nil {
		return nil, withoutAddress(err)
	}
	if err := checkPeer(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: multus\r\nConnection: close\r\nContent-Type: "+
		"application/json\r\nContent-Length: %d\r\n\r\n",
		method, path, len(body))
	b.Write(body)
	if _, err := conn.Write(b.Bytes()); err != nil {
		return nil, errors.Join(contextCause(ctx, err), conn.Close())
	}
	return conn, nil
}

// contextCause replaces the error of an expired connection deadline by the cause of ctx.
func contextCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// withoutAddress removes the address, which package net repeats.
func withoutAddress(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// readAnswer reads one HTTP/1.1 response. The daemon always sends a Content-Length.
func readAnswer(r *bufio.Reader) (int, []byte, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, nil, fmt.Errorf("connection lost: %w", err)
	}
	proto, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(proto, "HTTP/1.") {
		return 0, nil, fmt.Errorf("not HTTP: %q", clip([]byte(line)))
	}
	length := -1
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, nil, fmt.Errorf("connection lost: %w", err)
		}
		line = strings.TrimSpace(line)
		if line == "" {
			break
		}
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(v)); err != nil || length < 0 {
				return 0, nil, fmt.Errorf("bad Content-Length %q", clip([]byte(v)))
			}
			if length > maxAnswer {
				return 0, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, length, maxAnswer)
			}
		}
	}
	if length < 0 {
		return 0, nil, errors.New("answer without Content-Length")
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("connection lost: %w", err)
	}
	return status, body, nil
}

func clip(b []byte) string {
	const most = 200
	if len(b) > most {
		return string(b[:most]) + "…"
	}
	return string(b)
}
