package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"multus/api"
	"multus/internal/fsx"
)

const (
	// lockSuffix makes the name of the lock file of a socket. Only the daemon that holds the lock binds the socket.
	lockSuffix = ".lock"
	// lockPoll is how often a daemon that waits looks whether the one that serves has ended, socketPoll how often one that
	// serves looks whether the socket is still its own.
	lockPoll   = 200 * time.Millisecond
	socketPoll = time.Second
	// probeLimit bounds one request of the daemon to the socket.
	probeLimit = 2 * time.Second
	// instanceHeader of an answer to /healthz has the instance that answers.
	instanceHeader = "Multus-Instance"
)

// errServed says that another daemon holds the lock of the socket.
var errServed = errors.New("another multus-daemon serves this socket")

// socket is the place where plugins reach the daemon. A second daemon waits until the first one has ended, before it
// touches the socket: the first one stays reachable, and in a rolling update with surge none is lost. While it
// serves, a socket that was removed or replaced, or whose directory was, is bound again.
type socket struct {
	path string
	log  *slog.Logger
	// serve accepts connections in the background until the listener is closed.
	serve func(net.Listener)
	// instance tells this process from others in an answer.
	instance string

	// mu guards all below.
	mu       sync.Mutex
	lock     *fsx.Lock
	lockFile os.FileInfo
	listener net.Listener
	bound    os.FileInfo
	trouble  string // the last error of bind, which is logged when it changes
	ended    bool
}

func newSocket(path string, log *slog.Logger, serve func(net.Listener)) *socket {
	return &socket{path: path, log: log, serve: serve, instance: rand.Text()}
}

// open waits for the lock, then binds the socket. It returns the cause of ctx if that ends before.
func (s *socket) open(ctx context.Context) error {
	for said := false; ; {
		s.mu.Lock()
		err := s.bind(ctx)
		s.mu.Unlock()
		if !errors.Is(err, errServed) {
			return err
		}
		if !said {
			s.log.Info("waiting: another multus-daemon serves on this node", "socket", s.path)
		}
		said = true
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// keep binds the socket again whenever it is not this daemon's any more, until ctx ends.
func (s *socket) keep(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(socketPoll):
			s.mend(ctx, false)
		}
	}
}

// mend binds the socket again if the path does not lead to it, or in any case.
func (s *socket) mend(ctx context.Context, always bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !always && s.own() {
		return
	}
	err := s.bind(ctx)
	if err == nil {
		s.trouble = ""
		s.log.Warn("the socket was removed or replaced, and is bound again", "socket", s.path)
		return
	}
	if err.Error() != s.trouble {
		s.trouble = err.Error()
		s.log.Error("the socket was removed or replaced, and cannot be bound again: plugins do not reach this daemon",
			"socket", s.path, "err", err)
	}
}

// own reports whether path and lock file are those of this daemon. The caller holds mu.
func (s *socket) own() bool {
	return s.listener != nil && sameFile(s.path, s.bound) && sameFile(s.path+lockSuffix, s.lockFile)
}

func sameFile(path string, file os.FileInfo) bool {
	now, err := os.Lstat(path)
	return err == nil && file != nil && os.SameFile(now, file)
}

// bind takes the lock, unless it is held, and puts a new socket into place. The caller holds mu.
func (s *socket) bind(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return fmt.Errorf("listen on %s: %w", s.path, err)
	}
	if err := s.acquire(ctx); err != nil {
		return err
	}
	l, err := listen(s.path)
	if err != nil {
		return err
	}
	if s.bound, err = os.Lstat(s.path); err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", s.path, err), l.Close())
	}
	if s.listener != nil {
		_ = s.listener.Close() // no plugin finds it any more
	}
	s.listener = l
	s.serve(l)
	return nil
}

// acquire takes the lock. A lock file that was removed is of no use: another daemon makes a new one. The caller holds
// mu.
func (s *socket) acquire(ctx context.Context) error {
	name := s.path + lockSuffix
	if s.lock != nil && sameFile(name, s.lockFile) {
		return nil
	}
	lock, err := fsx.TryAcquire(name, "daemon")
	if errors.Is(err, fsx.ErrLocked) && (!errors.Is(err, fsx.ErrShared) || s.served(ctx)) {
		return fmt.Errorf("listen on %s: %w", s.path, errServed)
	}
	if errors.Is(err, fsx.ErrShared) {
		s.log.Warn("a process that may only read it has locked the lock file, and is ignored", "file", name)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.path, err)
	}
	file, err := os.Lstat(name)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", s.path, err), release(lock))
	}
	_ = release(s.lock) // of a file that is gone
	s.lock, s.lockFile = lock, file
	return nil
}

// release releases a lock, if there is one.
func release(l *fsx.Lock) error {
	if l == nil {
		return nil
	}
	return l.Release()
}

// served reports whether another process listens on the socket.
func (s *socket) served(ctx context.Context) bool {
	if sameFile(s.path, s.bound) {
		return false
	}
	d := net.Dialer{Timeout: probeLimit}
	c, err := d.DialContext(ctx, "unix", s.path)
	if err == nil {
		_ = c.Close()
	}
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist)
}

// close lets the next daemon have the socket. It is to be called when no more connections are accepted.
func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	_ = release(s.lock) // at the end of the process at the latest
	s.lock = nil
}

// reached reports whether the path still is the socket that this daemon bound.
func (s *socket) reached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own()
}

// waiting reports whether another daemon serves, for which this one waits.
func (s *socket) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener == nil
}

// check returns an error unless a request to the path of the socket arrives in this process. A daemon that waits is
// well as long as the one that serves answers.
func (s *socket) check(ctx context.Context) error {
	_, instance, err := s.probe(ctx, api.PathHealth)
	if s.waiting() || err == nil && instance == s.instance {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) && s.reached() {
		return nil // slow: to bind the socket again would cut off those who wait
	}
	s.mend(ctx, true)
	if _, instance, err = s.probe(ctx, api.PathHealth); err == nil && instance != s.instance {
		err = errors.New("another process answers")
	}
	if err != nil {
		return fmt.Errorf("plugins do not reach this daemon at %s: %w", s.path, err)
	}
	return nil
}

// probe sends a request to the socket, as a plugin does.
func (s *socket) probe(ctx context.Context, path string) (code int, instance string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.path)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: dial}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://multus"+path, nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, maxBody))
	return answer.StatusCode, answer.Header.Get(instanceHeader), err
}

// listen binds a socket under a temporary name and moves it into place, so that a plugin finds either the old daemon
// or the new one. The directory is never removed (behaviour.md F5 [quirk]). The caller holds the lock of the socket.
func listen(path string) (net.Listener, error) {
	left, _ := filepath.Glob(path + ".*") // the pattern is valid, or none is found
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && info.Mode().Type() == os.ModeSocket {
			_ = os.Remove(name) // of a daemon that was killed
		}
	}
	// Not the process ID, which is 1 in every container.
	temp := path + "." + rand.Text()[:8]
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close(), os.Remove(temp))
	}
	return &rootOnly{UnixListener: l}, nil
}

// rootOnly accepts connections of processes of uid 0 only. The mode of the socket says the same, but the directory
// may have been opened to others.
type rootOnly struct{ *net.UnixListener }

// Accept returns the next connection of a process of uid 0.
func (l *rootOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if peer, err := api.Peer(conn); err == nil && peer.Uid == 0 {
			return conn, nil
		}
		_ = conn.Close()
	}
}
