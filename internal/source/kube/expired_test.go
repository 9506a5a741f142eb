package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/kubetest"
)

// TestCacheListsAnewAfter410 checks that the cache reads the whole list again after an answer 410. Definitions are
// created, changed and deleted while the cache has no connection, and etcd is compacted, so that no watch from before
// delivers these events. Without the new list, the cache would keep the deleted definition for ever.
func TestCacheListsAnewAfter410(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		uncached bool
		message  string // of the 410
	}{
		"410 of the API server": {false, "too old resource version"},
		"410 of etcd":           {true, "for the provided watch is too old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testAfter410(t, kubetest.StartWith(t, kubetest.Options{Uncached: tc.uncached}), tc.message)
		})
	}
}

func testAfter410(t *testing.T, cluster *kubetest.Cluster, message string) {
	proxy := cluster.Proxy(t)
	for _, name := range []string{"changed", "deleted"} {
		cluster.CreateNetwork(t, metav1.NamespaceDefault, name, confX, nil)
	}
	config, err := Load(Options{Kubeconfig: proxy.Kubeconfig(t)})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	config.Wrap(r.wrap)
	c := run(t, config)
	eventually.Within(t, waitTimeout, "the watch works", func() bool { return isFollowing(c) })
	// After a watch that ended within a second and without an event, the reflector reads the list anyway.
	cluster.CreateNetwork(t, metav1.NamespaceDefault, "kept", confX, nil)
	eventually.Within(t, waitTimeout, "an event", func() bool { return c.Len() == 3 })

	open := r.close() // otherwise the back-off of the reflector grows while the API server is unavailable
	proxy.Down()
	eventually.Within(t, waitTimeout, "the watch breaks", func() bool { return !isFollowing(c) })
	const confY = `{"cniVersion":"1.0.0","type":"ipvlan"}`
	cluster.DeleteNetwork(t, metav1.NamespaceDefault, "deleted")
	cluster.UpdateNetwork(t, metav1.NamespaceDefault, "changed", confY)
	cluster.CreateNetwork(t, metav1.NamespaceDefault, "created", confX, nil)
	if got, want := held(c), map[string]string{"kept": confX, "changed": confX, "deleted": confX}; !maps.Equal(got, want) {
		t.Fatalf("the cache is cut off and holds %q, want %q", got, want)
	}
	cluster.Compact(t)
	proxy.Up()
	open()

	want := map[string]string{"kept": confX, "changed": confY, "created": confX}
	eventually.Within(t, waitTimeout, "the new list", func() bool { return maps.Equal(held(c), want) })
	eventually.Within(t, waitTimeout, "the watch works again", func() bool { return isFollowing(c) })
	all, expired := r.answers()
	t.Logf("answers: %q, 410: %s", all, expired)
	// The API server answers 429 while it starts.
	answers := slices.DeleteFunc(all, func(s string) bool { return strings.HasSuffix(s, " 429") })
	if want := []string{"LIST 200", "WATCH 200", "WATCH 410", "LIST 200", "WATCH 200"}; !slices.Equal(answers, want) {
		t.Errorf("answers %q, want %q", answers, want)
	}
	if !strings.Contains(expired, message) {
		t.Errorf("410: %q, want %q in it", expired, message)
	}
	// The new watch delivers later events.
	cluster.DeleteNetwork(t, metav1.NamespaceDefault, "created")
	eventually.Within(t, waitTimeout, "deletion is seen", func() bool { return c.Len() == 2 })
}

// held returns the configurations that a cache has, by the name of their definition.
func held(c *Cache) map[string]string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := map[string]string{}
	for ref, v := range c.defs {
		out[ref.Name] = v.config
	}
	return out
}

// recorder records the answers of a server to lists and watches of network definitions.
type recorder struct {
	mu     sync.Mutex
	seen   []*recorded
	closed chan struct{} // requests block until it is closed; nil does not block
}

// recorded is one answer. For a watch, body is the part of its events that was read.
type recorded struct {
	what string
	code int
	body bytes.Buffer
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// close blocks all requests until the function that it returns is called.
func (r *recorder) close() (open func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	closed := make(chan struct{})
	r.closed = closed
	return func() { close(closed) }
}

func (r *recorder) wait(ctx context.Context) error {
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if closed == nil {
		return nil
	}
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *recorder) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if err := r.wait(req.Context()); err != nil {
			return nil, err
		}
		resp, err := next.RoundTrip(req)
		if err != nil || !strings.HasSuffix(req.URL.Path, "/"+nadResource) {
			return resp, err
		}
		got := &recorded{what: "LIST", code: resp.StatusCode}
		if req.URL.Query().Get("watch") != "" {
			got.what = "WATCH"
			resp.Body = &recordedBody{ReadCloser: resp.Body, r: r, into: got}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen = append(r.seen, got)
		return resp, nil
	})
}

type recordedBody struct {
	io.ReadCloser
	r    *recorder
	into *recorded
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	b.into.body.Write(p[:n])
	return n, err
}

// answers returns "LIST code" or "WATCH code" for each answer, and the message of the last 410. The API server may send
// the error of a watch as its first event, with HTTP status 200. The code is then that of the error.
func (r *recorder) answers() (all []string, expired string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.seen {
		code := a.code
		var event struct {
			Type   string
			Object metav1.Status
		}
		if a.what == "WATCH" && json.Unmarshal(firstLine(a.body.Bytes()), &event) == nil &&
			event.Type == string(watch.Error) {
			code = int(event.Object.Code)
		}
		if code == http.StatusGone {
			expired = event.Object.Message
		}
		all = append(all, fmt.Sprintf("%s %d", a.what, code))
	}
	return all, expired
}

func firstLine(b []byte) []byte {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return line
}
