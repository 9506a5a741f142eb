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

	"multus/internal/agent/planserver"
	"multus/internal/fsx"
	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

const (
	// lockSuffix is appended to the name of the socket for its lock file. Only the daemon that holds the lock binds the
	// socket.
	lockSuffix = ".lock"
	// lockPoll is the interval at which a waiting daemon tries to acquire the lock. socketPoll is the interval at which a
	// serving daemon checks that the socket is still its own.
	lockPoll   = 200 * time.Millisecond
	socketPoll = time.Second
	// probeLimit limits one request of the daemon to its own socket.
	probeLimit = 2 * time.Second
	// maxAnswer limits how much of an answer is read.
	maxAnswer = 16 << 20
)

// errServed is returned when another daemon holds the lock of the socket.
var errServed = errors.New("another multus-daemon serves this socket")

// socket is the unix socket at which plugins reach the daemon. A second daemon waits until the first one has ended
// before it touches the socket. The first one therefore stays reachable, and a rolling update with surge loses no
// request. While the daemon serves, it binds the socket again if the socket or its directory was removed or replaced.
type socket struct {
	path string
	log  *slog.Logger
	// serve accepts connections in the background until the listener is closed.
	serve func(net.Listener)
	// instance distinguishes this process from others in an answer.
	instance string

	// mu guards the fields below.
	mu        sync.Mutex
	lock      *fsx.Lock
	lockFile  os.FileInfo
	listener  net.Listener
	bound     os.FileInfo
	lastError string // the last error of bind, which is logged when it changes
	ended     bool
}

func newSocket(path, instance string, log *slog.Logger, serve func(net.Listener)) *socket {
	return &socket{path: path, instance: instance, log: log, serve: serve}
}

// open waits for the lock and binds the socket. If ctx ends first, it returns the cause of ctx.
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

// keep binds the socket again whenever another process has removed or replaced it, until ctx ends.
func (s *socket) keep(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(socketPoll):
			s.rebind(ctx, false)
		}
	}
}

// rebind binds the socket again if its path no longer leads to it, or in any case if always is set.
func (s *socket) rebind(ctx context.Context, always bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !always && s.isOwn() {
		return
	}
	err := s.bind(ctx)
	if err == nil {
		s.lastError = ""
		s.log.Warn("the socket was removed or replaced, and is bound again", "socket", s.path)
		return
	}
	if err.Error() != s.lastError {
		s.lastError = err.Error()
		s.log.Error("the socket was removed or replaced, and cannot be bound again: plugins do not reach this daemon",
			"socket", s.path, "err", err)
	}
}

// isOwn reports whether the socket and the lock file at their paths are those of this daemon. The caller holds mu.
func (s *socket) isOwn() bool {
	return s.listener != nil && sameFile(s.path, s.bound) && sameFile(s.path+lockSuffix, s.lockFile)
}

func sameFile(path string, file os.FileInfo) bool {
	now, err := os.Lstat(path)
	return err == nil && file != nil && os.SameFile(now, file)
}

// bind acquires the lock if this daemon does not hold it, and puts a new socket into place. The caller holds mu.
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
		_ = s.listener.Close() // plugins no longer find it
	}
	s.listener = l
	s.serve(l)
	return nil
}

// acquire acquires the lock. The lock of a file that was removed is useless, because another daemon would create a new
// file. The caller holds mu.
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
		s.log.Warn("ignoring a lock on the lock file by a process with read access only", "file", name)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.path, err)
	}
	file, err := os.Lstat(name)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", s.path, err), release(lock))
	}
	_ = release(s.lock) // the lock of a removed file
	s.lock, s.lockFile = lock, file
	return nil
}

// release releases l. It does nothing if l is nil.
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

// close releases the lock, so that the next daemon can bind the socket. It is called when this daemon accepts no more
// connections.
func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	_ = release(s.lock) // at the latest when the process ends
	s.lock = nil
}

// reached reports whether the path still leads to the socket that this daemon bound.
func (s *socket) reached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isOwn()
}

// Waiting reports whether this daemon waits for another one that serves.
func (s *socket) Waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener == nil
}

// Check returns an error if a request to the path of the socket does not arrive in this process. While the daemon waits
// for another one, Check succeeds if the other one answers.
func (s *socket) Check(ctx context.Context) error {
	_, instance, err := s.Probe(ctx, wirev1.PathHealth)
	if s.Waiting() || err == nil && instance == s.instance {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) && s.reached() {
		return nil // The daemon is slow. Binding the socket again would cut off the clients that wait.
	}
	s.rebind(ctx, true)
	if _, instance, err = s.Probe(ctx, wirev1.PathHealth); err == nil && instance != s.instance {
		err = errors.New("another process answers")
	}
	if err != nil {
		return fmt.Errorf("plugins do not reach this daemon at %s: %w", s.path, err)
	}
	return nil
}

// Probe sends a request to the socket, as a plugin does.
func (s *socket) Probe(ctx context.Context, path string) (code int, instance string, err error) {
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
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer))
	return answer.StatusCode, answer.Header.Get(planserver.InstanceHeader), err
}

// listen binds a socket under a temporary name and moves it into place, so that a plugin finds either the old daemon or
// the new one. It never removes the directory (behaviour F5). The caller holds the lock of the socket.
func listen(path string) (net.Listener, error) {
	left, _ := filepath.Glob(path + ".*") // the error is that of an invalid pattern; then nothing is removed
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && info.Mode().Type() == os.ModeSocket {
			_ = os.Remove(name) // left by a daemon that was killed
		}
	}
	// The process ID does not distinguish daemons: it is 1 in every container.
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

// rootOnly accepts connections of processes with uid 0 only. The mode of the socket ensures that already, unless the
// directory was opened to other users.
type rootOnly struct{ *net.UnixListener }

// Accept returns the next connection of a process with uid 0.
func (l *rootOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if peer, err := client.Peer(conn); err == nil && peer.Uid == 0 {
			return conn, nil
		}
		_ = conn.Close()
	}
}
