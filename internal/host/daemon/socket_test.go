package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/testutil/eventually"
)

// freePort returns a port of the loopback that was free when it was chosen.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no TCP address")
	}
	return addr.Port
}

// shortDir returns a directory whose path is short enough for a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "m") //nolint:usetesting // the name of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// instance is a daemon in this process.
type instance struct {
	socket string
	health int
	ended  chan error
	stop   func()
}

// runDaemon starts a daemon with a directory of networks as its source. A port 0 is not served.
func runDaemon(t *testing.T, dir string, health, metrics int) *instance {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the socket is for root")
	}
	conf := fmt.Sprintf(`{"socketDir":%q,"networksDir":%q,"logFile":%q,"logToStderr":false`, filepath.Join(dir, "run"),
		dir, filepath.Join(dir, "log"))
	if metrics != 0 {
		conf += fmt.Sprintf(`,"metricsPort":%d`, metrics)
	}
	file := filepath.Join(dir, "daemon-config.json")
	if err := os.WriteFile(file, []byte(conf+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	d := &instance{socket: filepath.Join(dir, "run", "multus.sock"), health: health, ended: make(chan error, 1)}
	go func() {
		d.ended <- Run(ctx, Options{Config: file, HealthPort: health, Getenv: func(string) string { return "" }})
	}()
	d.stop = func() {
		cancel()
		if err := eventually.Receive(t, "the end of the daemon", d.ended); err != nil {
			t.Error(err)
		}
		d.ended <- nil
	}
	t.Cleanup(d.stop)
	return d
}

// answers requests a path on the socket. It returns the HTTP status and the instance that answered, or 0 for no answer.
func (d *instance) answers(path string) (int, string) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
		},
	}
	return get(transport, "http://multus"+path)
}

// probe sends a request to the health port, as the kubelet does.
func (d *instance) probe(path string) int {
	code, _ := get(&http.Transport{DisableKeepAlives: true}, fmt.Sprintf("http://127.0.0.1:%d%s", d.health, path))
	return code
}

func get(transport *http.Transport, url string) (int, string) {
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Multus-Instance")
}

func (d *instance) await(t *testing.T) string {
	t.Helper()
	var id string
	eventually.True(t, "the daemon serves", func() (ok bool) {
		var code int
		code, id = d.answers("/healthz")
		return code == http.StatusOK
	})
	return id
}

// TestSecondDaemon checks that a second daemon on the node does not take the socket of the first one, whether its ports
// are free or not. It serves when the first one has ended, and until then returns the readiness of the first one.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"same ports": true, "other ports": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			health, metrics := freePort(t), freePort(t)
			first := runDaemon(t, dir, health, metrics)
			id := first.await(t)
			eventually.True(t, "the first daemon is healthy", func() bool { return first.probe("/healthz") == http.StatusOK })
			if !same {
				health, metrics = freePort(t), freePort(t)
			}
			second := runDaemon(t, dir, health, metrics)
			eventually.True(t, "the second daemon is ready", func() bool { return second.probe("/readyz") == http.StatusOK })
			for end := time.Now().Add(2 * lockPoll); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if code, got := first.answers("/healthz"); code != http.StatusOK || got != id {
					t.Fatalf("with a second daemon the socket answers %d by %q, not 200 by %q", code, got, id)
				}
			}
			select {
			case err := <-second.ended:
				second.ended <- nil
				t.Fatalf("the second daemon ended: %v", err)
			default:
			}
			first.stop()
			eventually.True(t, "the second daemon serves", func() bool {
				code, got := second.answers("/healthz")
				return code == http.StatusOK && got != id
			})
			eventually.True(t, "its probes", func() bool {
				return second.probe("/healthz") == http.StatusOK && second.probe("/readyz") == http.StatusOK
			})
			if left, _ := filepath.Glob(filepath.Join(dir, "run", "multus.sock.*")); len(left) != 1 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestReaderCannotBlock checks that a process which may only read the socket directory, and locks the files in it,
// does not block the daemon, also when the daemon restarts. Still only one daemon serves at a time.
func TestReaderCannotBlock(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	lock := filepath.Join(dir, "run", "multus.sock"+lockSuffix)
	if err := errors.Join(os.MkdirAll(filepath.Dir(lock), 0o700), os.WriteFile(lock, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := unix.FcntlFlock(reader.Fd(), unix.F_OFD_SETLK,
		&unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart}); err != nil {
		t.Fatal(err)
	}
	first := runDaemon(t, dir, freePort(t), 0)
	id := first.await(t)
	second := runDaemon(t, dir, freePort(t), 0)
	eventually.True(t, "the second daemon is ready", func() bool { return second.probe("/readyz") == http.StatusOK })
	if code, got := first.answers("/healthz"); code != http.StatusOK || got != id {
		t.Errorf("with a second daemon the socket answers %d by %q, not 200 by %q", code, got, id)
	}
	first.stop()
	eventually.True(t, "the second daemon serves", func() bool {
		code, got := second.answers("/healthz")
		return code == http.StatusOK && got != id
	})
}

// TestSocketIsBoundAgain checks that plugins reach the daemon again after the socket, its directory or its lock file
// was removed or replaced.
func TestSocketIsBoundAgain(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := runDaemon(t, dir, freePort(t), 0)
	id := d.await(t)
	for _, tc := range []struct {
		name string
		do   func() error
	}{
		{"removed", func() error { return os.Remove(d.socket) }},
		{"the directory is removed", func() error {
			// RemoveAll fails while the daemon writes into the directory.
			eventually.True(t, "the directory is removed", func() bool { return os.RemoveAll(filepath.Dir(d.socket)) == nil })
			return nil
		}},
		{"the lock file is removed", func() error { return os.Remove(d.socket + ".lock") }},
		{"replaced by a file", func() error {
			// The daemon may bind the socket in between.
			eventually.True(t, "the socket is replaced by a file", func() bool {
				return errors.Join(os.Remove(d.socket), os.WriteFile(d.socket, nil, 0o600)) == nil
			})
			return nil
		}},
		{"replaced by a socket", func() error {
			if err := os.Remove(d.socket); err != nil {
				return err
			}
			l, err := net.Listen("unix", d.socket)
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				err = l.Close() // the socket file stays, but no process listens on it
			}
			return err
		}},
		{"removed once more", func() error { return os.Remove(d.socket) }},
	} {
		if err := tc.do(); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		eventually.True(t, tc.name, func() bool {
			code, got := d.answers("/healthz")
			return code == http.StatusOK && got == id && d.probe("/healthz") == http.StatusOK
		})
	}
	// The probes report a socket that cannot be bound again.
	if err := errors.Join(os.Remove(d.socket), os.Mkdir(d.socket, 0o700)); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the probes fail", func() bool {
		return d.probe("/healthz") == http.StatusServiceUnavailable && d.probe("/readyz") == http.StatusServiceUnavailable
	})
	if err := os.Remove(d.socket); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the probes succeed", func() bool { return d.probe("/healthz") == http.StatusOK })
}

// TestPortIsTaken checks that a port which another process uses does not stop the daemon, and is served as soon as it
// is free. A port that can never be bound is an error, which is found before the socket is touched.
func TestPortIsTaken(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr, _ := l.Addr().(*net.TCPAddr)
	d := runDaemon(t, dir, addr.Port, 0)
	d.await(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the port is served", func() bool { return d.probe("/healthz") == http.StatusOK })
	bad := &instance{ended: make(chan error, 1)}
	other := shortDir(t)
	file := filepath.Join(other, "c.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"socketDir":%q,"networksDir":%q}`, filepath.Join(other, "run"), other),
		0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		bad.ended <- Run(t.Context(), Options{Config: file, HealthPort: 70_000, Getenv: func(string) string { return "" }})
	}()
	if err := eventually.Receive(t, "the end of the daemon", bad.ended); err == nil {
		t.Error("port 70000 is no error")
	}
	if _, err := os.Stat(filepath.Join(other, "run")); err == nil {
		t.Error("the socket was touched")
	}
}

// TestSlowIsHealthy checks that a daemon which answers slowly keeps its socket and the clients that wait there.
func TestSlowIsHealthy(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("the socket is for root")
	}
	var bound []net.Listener // it accepts no connection
	s := newSocket(filepath.Join(shortDir(t), "multus.sock"), "this", slog.New(slog.DiscardHandler),
		func(l net.Listener) { bound = append(bound, l) })
	if err := s.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Check(ctx); err != nil || len(bound) != 1 {
		t.Errorf("%v, bound %d times", err, len(bound))
	}
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err == nil || len(bound) != 2 {
		t.Errorf("after it was removed: %v, bound %d times", err, len(bound))
	}
	for _, l := range bound {
		_ = l.Close()
	}
}
