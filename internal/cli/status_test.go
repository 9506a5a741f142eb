package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// apiServerOf starts an API server with fixed answers and returns its kubeconfig.
func apiServerOf(t *testing.T, answers map[string]string) (kubeconfig string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		w.Header().Set("Content-Type", "application/json")
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
		}
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	err := os.WriteFile(kubeconfig,
		[]byte("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c}}]\nclusters: "+
			"[{name: c, cluster: {server: '"+s.URL+"'}}]\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

const webStatus = `{"metadata":{"name":"web-0","namespace":"team-a","annotations":{"k8s.v1.cni.cncf.io/network-status":` +
	`"[{\"name\":\"cbr0\",\"interface\":\"eth0\",\"ips\":[\"10.88.0.5\"],\"default\":true},{\"name\":\"team-a/other\",\"interface\":\"net7\"}]"}}}`

// TestStatus checks that the daemon, the ledger, the network namespace and the API are shown, and that differences are
// reported (multus-cni#1359).
func TestStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	recordSandbox(t, dir, "aaaa", "web-0", "/proc/self/ns/net")
	recordSandbox(t, dir, "bbbb", "web-1", "/nowhere/netns")
	kubeconfig := apiServerOf(t, map[string]string{"/api/v1/namespaces/team-a/pods/web-0": webStatus})

	code, out, errs := call(t, nil, "status", "--state-dir", dir, "--socket-dir", dir)
	for _, want := range []string{
		"daemon: unreachable", "team-a/web-0  aaaa       net1       team-a/net",
		"problem: team-a/web-0: interface net1 of network team-a/net is not in the pod",
		"problem: team-a/web-1: the network namespace /nowhere/netns is gone",
	} {
		if !strings.Contains(out, want) || code != Found {
			t.Errorf("%d: no %q in\n%s%s", code, want, out, errs)
		}
	}
	code, out, errs = call(t, nil, "status", "team-a/web-0", "--state-dir", dir, "--socket-dir", dir, "--kubeconfig",
		kubeconfig)
	for _, want := range []string{
		"network team-a/other (interface net7) is in network-status, but this node has no record of it",
		"interface net1 of network team-a/net is not in network-status",
	} {
		if !strings.Contains(out, want) || code != Found {
			t.Errorf("%d: no %q in\n%s%s", code, want, out, errs)
		}
	}
	// On another machine, only the data of the API is shown, and that is no problem.
	code, out, errs = call(t, nil, "status", "team-a/web-0", "--state-dir", t.TempDir(), "--socket-dir", dir,
		"--kubeconfig", kubeconfig)
	if code != OK || !strings.Contains(out, "team-a/web-0  -          eth0       cbr0          -    -    10.88.0.5") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if code, _, errs := call(t, nil, "status", "team-a/none", "--state-dir", dir, "--socket-dir", dir, "--kubeconfig",
		kubeconfig); code != Found || !strings.Contains(errs, "not found") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestStatusOfHealthyPods checks that what a network status cannot contain is no problem. Calico's result names the
// node's end only, so that the element has no interface. Other plugins create more interfaces than the requested one.
func TestStatusOfHealthyPods(t *testing.T) {
	t.Parallel()
	own := podInterface{Name: "eth0", Network: "k8s-pod-network"}
	net1 := podInterface{Name: "net1", Network: "team-a/udn"}
	for _, tc := range []struct {
		name     string
		have     []podInterface
		reported []reportedNetwork
		problems []string
		there    int
	}{
		{"Calico", []podInterface{own}, []reportedNetwork{{Name: "k8s-pod-network", IPs: []string{"192.0.2.2"}}}, nil, 1},
		{"AWS", []podInterface{own}, []reportedNetwork{
			{Name: "k8s-pod-network", Interface: "eth0"},
			{Name: "k8s-pod-network", Interface: "dummy0"},
		}, nil, 2},
		{"UDN", []podInterface{own}, []reportedNetwork{
			{Name: "k8s-pod-network", Interface: "eth0"},
			{Name: "k8s-pod-network", Interface: "ovn-udn1"},
		}, nil, 2},
		{
			"a network without a record",
			[]podInterface{own},
			[]reportedNetwork{{Name: "k8s-pod-network"}, {Name: "x/y", Interface: "net1"}},
			[]string{"network x/y (interface net1) is in network-status, but this node has no record of it"},
			2,
		},
		{
			"a network without a record without an interface",
			[]podInterface{own},
			[]reportedNetwork{{Name: "k8s-pod-network"}, {Name: "x/y"}},
			[]string{"network x/y (interface -) is in network-status, but this node has no record of it"},
			2,
		},
		{
			"not reported",
			[]podInterface{own, net1},
			[]reportedNetwork{{Name: "k8s-pod-network"}},
			[]string{"interface net1 of network team-a/udn is not in network-status"},
			2,
		},
	} {
		p := podStatus{Container: "c", Interfaces: tc.have}
		p.compare(tc.reported)
		if !slices.Equal(p.Problems, tc.problems) || len(p.Interfaces) != tc.there {
			t.Errorf("%s: %q, %+v", tc.name, p.Problems, p.Interfaces)
		}
	}
}

// TestParseRef checks that a name alone is in the namespace default, and that anything else is a usage error.
func TestParseRef(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"a/b": "a/b", "b": "default/b", "": "", "/b": "", "a/": "", "a/b/c": ""} {
		ref, err := parseRef(in)
		var usage usageError
		if want == "" != errors.As(err, &usage) || want != "" && ref.String() != want {
			t.Errorf("%q: %s, %v", in, ref, err)
		}
	}
}

// TestDaemonState checks a daemon that is ready, one that is not, and none (behaviour E40).
func TestDaemonState(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "multus.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var answer atomic.Value
	answer.Store("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, fmt.Sprint(answer.Load()))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { <-done })
	t.Cleanup(func() { _ = l.Close() })
	socket := filepath.Join(dir, "multus.sock")
	if s := daemonState(t.Context(), socket); s.State != "ready" {
		t.Errorf("%+v", s)
	}
	body := `{"code":50,"msg":"the CNI configuration is not written yet"}`
	answer.Store(fmt.Sprintf("HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	if s := daemonState(t.Context(), socket); s.State != "not ready" || !strings.Contains(s.Message, "not written yet") {
		t.Errorf("%+v", s)
	}
	if s := daemonState(t.Context(), socket+".none"); s.State != "unreachable" {
		t.Errorf("%+v", s)
	}
}
