package entrypoint

import (
	"encoding/json"
	"encoding/pem"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// apiServer answers requests for the Node object of the node n1.
type apiServer struct {
	runtime  atomic.Value // string, "" if the role does not permit the request
	requests atomic.Int64
}

// serve starts the server and gives the host its address and CA.
func (s *apiServer) serve(t *testing.T, h *host) *httptest.Server {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		w.Header().Set("Content-Type", "application/json")
		version, _ := s.runtime.Load().(string)
		if r.URL.Path != "/api/v1/nodes/n1" || version == "" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`))
			return
		}
		_, _ = w.Write([]byte(`{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"},"status":{"nodeInfo":{"containerRuntimeVersion":"` +
			version + `"},"addresses":[{"type":"InternalIP","address":"192.0.2.7"}]}}`))
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	address, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	h.env["KUBERNETES_SERVICE_HOST"], h.env["KUBERNETES_SERVICE_PORT"], h.env["MULTUS_NODE_NAME"] = address, port, "n1"
	h.write(t, "sa/ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	return server
}

// written returns version and node addresses of the configuration in force.
func (h *host) written(t *testing.T) (version, addresses string) {
	t.Helper()
	var c struct {
		CNIVersion    string
		NodeAddresses []string
		Plugins       []struct{ NodeAddresses []string }
	}
	name := "net.d/00-multus.conf"
	if !h.exists(name) {
		name += "list"
	}
	if err := json.Unmarshal([]byte(h.read(t, name)), &c); err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Plugins {
		c.NodeAddresses = p.NodeAddresses
	}
	return c.CNIVersion, strings.Join(c.NodeAddresses, ",")
}

// TestVersionOfRuntime checks that the version of the configuration depends on the container runtime if the role
// permits to read the Node object, so that STATUS and GC reach Multus with a cluster network of an older version.
// Otherwise the version is that of the cluster network.
func TestVersionOfRuntime(t *testing.T) {
	t.Parallel()
	const newRuntime, address = "containerd://2.1.4", "192.0.2.7"
	type env map[string]string
	for name, tc := range map[string]struct {
		runtime            string
		flag               string
		env                env
		version, addresses string
		noRequest          bool
	}{
		"a runtime with CNI 1.1": {runtime: newRuntime, version: "1.1.0", addresses: address},
		"auto by name": {
			runtime: "cri-o://1.31.0", flag: "--cni-version=auto", version: "1.1.0", addresses: address,
		},
		"an older runtime":       {runtime: "containerd://1.7.24", version: "0.3.1", addresses: address},
		"not permitted":          {version: "0.3.1"},
		"a version by flag":      {runtime: newRuntime, flag: "--cni-version=1.0.0", version: "1.0.0", addresses: address},
		"an unknown node name":   {runtime: newRuntime, env: env{nodeName: ""}, version: "0.3.1", noRequest: true},
		"no watch":               {runtime: newRuntime, flag: "--skip-config-watch", version: "1.1.0", addresses: address},
		"a renamed cluster file": {runtime: newRuntime, flag: "--rename-conf-file", version: "1.1.0", addresses: address},
		"an address in the environment": {
			runtime: newRuntime, env: env{nodeAddress: "192.0.2.9"}, version: "1.1.0", addresses: "192.0.2.9",
		},
		"both given": {
			runtime: newRuntime, flag: "--cni-version=0.4.0", env: env{nodeAddress: "192.0.2.9"},
			version: "0.4.0", addresses: "192.0.2.9", noRequest: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.firstAnswer = waitTimeout
			h.write(t, "net.d/10-flannel.conflist", flannel031)
			s := &apiServer{}
			s.runtime.Store(tc.runtime)
			s.serve(t, h)
			maps.Copy(h.env, tc.env)
			var flags []string
			if tc.flag != "" {
				flags = append(flags, tc.flag)
			}
			stop := h.start(t, flags...)
			h.eventually(t, "the watch", func() bool { return strings.Contains(h.out.String(), "Entering watch loop") })
			if version, addresses := h.written(t); version != tc.version || addresses != tc.addresses {
				t.Errorf("version %q, addresses %q, want %q, %q", version, addresses, tc.version, tc.addresses)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			if n := s.requests.Load(); (n == 0) != tc.noRequest {
				t.Errorf("%d requests", n)
			}
			if h.exists("net.d/00-multus.conf") && h.exists("net.d/00-multus.conflist") {
				t.Error("two configurations")
			}
		})
	}
}

// TestVersionDuringOutage checks that an existing configuration keeps its version while the API server cannot be
// reached. A new one gets that of the cluster network, and is changed when the API server is back.
func TestVersionDuringOutage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	s := &apiServer{}
	s.runtime.Store("containerd://2.1.4")
	server := s.serve(t, h)
	stop := h.start(t)
	h.eventually(t, "the watch", func() bool { return strings.Contains(h.out.String(), "Entering watch loop") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	before := h.read(t, "net.d/00-multus.conflist")
	server.CloseClientConnections()
	server.Close()
	stop = h.start(t)
	h.eventually(t, "the second watch", func() bool { return strings.Count(h.out.String(), "Entering watch loop") == 2 })
	if got := h.read(t, "net.d/00-multus.conflist"); got != before || h.exists("net.d/00-multus.conf") {
		t.Errorf("it was changed from %s to %s", before, got)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(h.dir, "net.d/00-multus.conflist")); err != nil {
		t.Fatal(err)
	}
	stop = h.start(t)
	h.eventually(t, "the third watch", func() bool { return strings.Count(h.out.String(), "Entering watch loop") == 3 })
	if version, _ := h.written(t); version != "0.3.1" {
		t.Errorf("without an answer: version %q", version)
	}
	l, err := net.Listen("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	back := httptest.NewUnstartedServer(server.Config.Handler)
	back.Listener.Close()
	back.Listener = l
	back.StartTLS()
	defer back.Close()
	h.eventually(t, "the runtime's version", func() bool {
		return h.exists("net.d/00-multus.conflist") && !h.exists("net.d/00-multus.conf")
	})
	if version, addresses := h.written(t); version != "1.1.0" || addresses != "192.0.2.7" {
		t.Errorf("version %q, addresses %q", version, addresses)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
