package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/testutil/leak"
)

// pathPlan is a path of the daemon. The client does not interpret it.
const pathPlan = "/v1/plan"

func TestMain(m *testing.M) { leak.Main(m) }

// serve accepts connections on a unix socket and passes each one to the next handler. The last handler is used
// repeatedly.
func serve(t *testing.T, handlers ...func(net.Conn)) *Client {
	t.Helper()
	c := &Client{Socket: filepath.Join(t.TempDir(), "s")}
	listen(t, c.Socket, handlers...)
	return c
}

func listen(t *testing.T, socket string, handlers ...func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handlers[min(i, len(handlers)-1)](conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// request reads one request.
func request(conn net.Conn) (head, body string) {
	r := bufio.NewReader(conn)
	length := 0
	for {
		line, err := r.ReadString('\n')
		head += line
		if err != nil || line == "\r\n" {
			break
		}
		_, _ = fmt.Sscanf(line, "Content-Length: %d", &length)
	}
	b := make([]byte, length)
	_, _ = io.ReadFull(r, b)
	return head, string(b)
}

func respond(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		request(conn)
		_, _ = io.WriteString(conn, answer)
	}
}

func answer(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d Text\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status,
		len(body), body)
}

type value struct {
	A string `json:"a"`
}

// TestCall checks one exchange: one connection, one HTTP/1.1 request with a length, one response.
func TestCall(t *testing.T) {
	t.Parallel()
	head, body := "", ""
	c := serve(t, func(conn net.Conn) {
		head, body = request(conn)
		_, _ = io.WriteString(conn, answer(200, `{"a":"out"}`))
	})
	out := &value{}
	if err := c.Call(t.Context(), "POST", pathPlan, &value{"in"}, out); err != nil || out.A != "out" {
		t.Errorf("%+v, %v", out, err)
	}
	want := "POST /v1/plan HTTP/1.1\r\nHost: multus\r\nConnection: close\r\nContent-Type: " +
		"application/json\r\nContent-Length: 10\r\n\r\n"
	if head != want || body != `{"a":"in"}` {
		t.Errorf("sent %q %q", head, body)
	}
	if err := c.Call(t.Context(), "GET", "/v1/status", nil, nil); err != nil || body != "" ||
		!strings.HasPrefix(head, "GET /v1/status ") {
		t.Errorf("without bodies: %v, sent %q %q", err, head, body)
	}
	if err := c.Call(t.Context(), "POST", pathPlan, func() {}, nil); err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("a request that cannot be encoded: %v", err)
	}
}

// TestAnswers checks the result of each kind of response: a CNI error is returned as it is (behaviour E33), a lost
// connection can be distinguished from a refusal (behaviour E23, M17), and nothing is guessed.
func TestAnswers(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	tests := []struct {
		rule, answer string
		unreachable  bool
		want         string
	}{
		{"E23 no response", "", true, "connection lost: EOF"},
		{"E23 lost in the first line", "HTTP/1.1 20", true, "connection lost"},
		{"E23 lost in the head", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", true, "connection lost"},
		{
			"E23 lost in the middle", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", true,
			"connection lost: unexpected EOF",
		},
		{"not HTTP", "SSH-2.0-x\r\n\r\n", true, `not HTTP: "SSH-2.0-x`},
		{"no status", "HTTP/1.1 OK\r\n\r\n", true, "not HTTP"},
		{"another version", "HTTP/2 200\r\nContent-Length: 0\r\n\r\n", true, "not HTTP"},
		{"no length", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", true, "answer without Content-Length"},
		{
			"in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", true,
			"answer without Content-Length",
		},
		{"an invalid length", "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", true, `bad Content-Length "`},
		{"a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", true, "bad Content-Length"},
		{"a length that overflows", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", false, "answer too large"},
		{
			"E32 an error that is not a CNI error", answer(500, long), false,
			"answered 500 to /v1/plan: \"" + strings.Repeat("x", 200) + "…\"",
		},
		{"E32 an error without a message", answer(400, `{"code":5}`), false, "answered 400"},
		{"E32 an empty error", answer(404, ""), false, "answered 404"},
		{"E34 an answer that is not JSON", answer(200, "{"), false, "decode answer of the daemon to /v1/plan"},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			c := serve(t, respond(tc.answer))
			err := c.Call(t.Context(), "POST", pathPlan, &value{}, &value{})
			if err == nil || errors.Is(err, ErrUnreachable) != tc.unreachable || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v", err)
			}
			if tc.unreachable && !strings.Contains(err.Error(), "daemon not reachable at "+c.Socket) {
				t.Errorf("the socket is not named: %v", err)
			}
		})
	}
	t.Run("E33 a CNI error", func(t *testing.T) {
		t.Parallel()
		for _, status := range []int{400, 500, 503} {
			err := serve(t, respond(answer(status, `{"code":11,"msg":"m","details":"d"}`))).Call(t.Context(), "POST", pathPlan, nil,
				&value{})
			var ce *types.Error
			if !errors.As(err, &ce) || *ce != (types.Error{Code: 11, Msg: "m", Details: "d"}) {
				t.Errorf("%d: %v", status, err)
			}
		}
	})
	t.Run("header fields in another form", func(t *testing.T) {
		t.Parallel()
		out := &value{}
		if err := serve(t, respond("HTTP/1.0 200\ncontent-length:  11 \nX: y\n\n"+`{"a":"out"}`+"more")).Call(t.Context(), "GET",
			"/", nil, out); err != nil || out.A != "out" {
			t.Errorf("%+v, %v", out, err)
		}
	})
}

// TestNoDaemon checks a socket that does not exist, and one without a listener (behaviour E30, M16).
func TestNoDaemon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	for socket, want := range map[string]error{filepath.Join(dir, "none"): syscall.ENOENT, dead: syscall.ECONNREFUSED} {
		err := (&Client{Socket: socket}).Call(t.Context(), "GET", "/", nil, nil)
		if !errors.Is(err, ErrUnreachable) || !errors.Is(err, want) || strings.Count(err.Error(), socket) != 1 {
			t.Errorf("%v, want %v and the socket once", err, want)
		}
	}
}

// TestContext checks that a call of a daemon that does not respond ends with the context, with the cause of its end
// (behaviour E37, O36).
func TestContext(t *testing.T) {
	t.Parallel()
	c := serve(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	cause := errors.New("ADD took longer than 90s")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Millisecond, cause)
	defer cancel()
	if err := c.Call(ctx, "POST", pathPlan, &value{}, nil); !errors.Is(err, ErrUnreachable) || !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	if err := c.Call(ctx, "POST", pathPlan, &value{}, nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a request was sent after the end: %v", err)
	}
}

func TestPersist(t *testing.T) {
	t.Parallel()
	t.Run("until the daemon listens", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		c := &Client{Socket: filepath.Join(dir, "s")}
		done, out := make(chan error, 1), &value{}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		go func() { done <- c.Persist(ctx, "POST", pathPlan, &value{"in"}, out) }()
		listen(t, c.Socket, func(conn net.Conn) { _ = conn }, respond("HTTP/1.1 200 OK\r\n"), respond(answer(200, `{"a":"out"}`)))
		if err := <-done; err != nil || out.A != "out" {
			t.Errorf("%+v, %v", out, err)
		}
	})
	t.Run("not after an answer", func(t *testing.T) {
		t.Parallel()
		var n atomic.Int32
		c := serve(t, func(conn net.Conn) {
			n.Add(1)
			respond(answer(503, `{"code":11,"msg":"m"}`))(conn)
		})
		var ce *types.Error
		if err := c.Persist(t.Context(), "POST", pathPlan, nil, nil); !errors.As(err, &ce) || n.Load() != 1 {
			t.Errorf("%v after %d requests", err, n.Load())
		}
	})
	t.Run("until the request ends", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := &Client{Socket: filepath.Join(t.TempDir(), "none")}
		if err := c.Persist(ctx, "POST", pathPlan, nil, nil); !errors.Is(err, ErrUnreachable) ||
			!errors.Is(err, os.ErrNotExist) {
			t.Errorf("the cause of the cancellation is lost: %v", err)
		}
	})
}

// FuzzReadAnswer checks that no input makes readAnswer panic, block or allocate without bound, and that the body it
// returns is the end of a well-formed response.
func FuzzReadAnswer(f *testing.F) {
	for _, seed := range []string{
		"", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "HTTP/1. 0\nContent-Length:0\n\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "\r\n\r\n", "HTTP/1.1\r\n",
		"HTTP/1.1 -5 x\nContent-Length: 1\nContent-Length: 0\n\n", "HTTP/1.1 200\ncontent-length\n\n",
		answer(503, `{"code":11,"msg":"m"}`),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, body, err := readAnswer(bufio.NewReader(strings.NewReader(string(b))))
		if err != nil {
			if body != nil || err.Error() == "" {
				t.Errorf("%q and %v", body, err)
			}
			return
		}
		if !strings.HasPrefix(strings.TrimSpace(string(b)), "HTTP/1.") || !strings.Contains(string(b), string(body)) {
			t.Errorf("%q gives %q", b, body)
		}
	})
}

// TestTooLarge checks that a response that is too large is not retried as a lost connection: a retry would have the
// same result and the same cost.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	c := serve(t, func(conn net.Conn) {
		tries.Add(1)
		request(conn)
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", maxAnswer+1)
	})
	err := c.Persist(t.Context(), "POST", pathPlan, &value{"in"}, &value{})
	if !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrUnreachable) || tries.Load() != 1 {
		t.Errorf("%v, after %d tries", err, tries.Load())
	}
}

// TestPeer checks that a plan is not accepted from a process of another user, because it decides what is executed as
// root (behaviour E1).
func TestPeer(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) { // t.TempDir is below a directory of root
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "s")
	// A process of another user listens and never responds.
	self, err := os.ReadFile(os.Args[0])
	program := filepath.Join(dir, "program") // the other user cannot read the test binary
	if err := errors.Join(err, os.WriteFile(program, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestPeerHelper$")
	cmd.Env = append(os.Environ(), "PEER_SOCKET="+socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("%q, %v", line, err)
	}
	err = (&Client{Socket: socket}).Persist(t.Context(), "POST", pathPlan, &value{"in"}, &value{})
	if !errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("%v", err)
	}
}

// TestPeerHelper is the other process of TestPeer.
func TestPeerHelper(t *testing.T) {
	socket := os.Getenv("PEER_SOCKET")
	if socket == "" {
		t.Skip("only TestPeer runs it")
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, conn)
	}
}
