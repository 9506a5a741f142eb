package faults

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

// misbehaviour is one fault of an API server. It answers a request itself and returns true, or returns false, and then
// the real server answers.
type misbehaviour func(w http.ResponseWriter, r *http.Request, serve http.Handler) (answered bool)

// frontend is a reverse proxy to the real API server that can misbehave.
type frontend struct {
	server  *httptest.Server
	current atomic.Pointer[misbehaviour]
}

func newFrontend(t *testing.T, c *kubetest.Cluster) *frontend {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.CA())
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: c.Addr()})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	proxy.FlushInterval = -1 // flush at once, for watches
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	f := &frontend{}
	f.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m := f.current.Load(); m != nil && (*m)(w, r, proxy) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that are cut off are logged as errors
	t.Cleanup(func() { check(t, f.server.Config.Close()) })
	return f
}

// misbehave sets the misbehaviour of the server. With nil the server behaves well.
func (f *frontend) misbehave(m misbehaviour) {
	if m == nil {
		f.current.Store(nil)
		return
	}
	f.current.Store(&m)
}

func (f *frontend) addr() string { return f.server.Listener.Addr().String() }

func (f *frontend) kubeconfig(t *testing.T, c *kubetest.Cluster) string {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: f.server.URL, CertificateAuthorityData: ca}
	cfg.AuthInfos["c"] = &clientcmdapi.AuthInfo{Token: c.Token()}
	cfg.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "c"}
	cfg.CurrentContext = "c"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	check(t, clientcmd.WriteToFile(*cfg, path))
	return path
}

// refuse returns a misbehaviour that answers with an error, as the API server's priority and fairness or a broken etcd
// does.
func refuse(code int, reason string, methods ...string) misbehaviour {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if len(methods) > 0 && !slices.Contains(methods, r.Method) {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(
			map[string]any{
				"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
				"message": reason,
			})
		return true
	}
}

// twoOfThree misbehaves for two of three requests.
func twoOfThree(m misbehaviour) misbehaviour {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request, serve http.Handler) bool {
		return n.Add(1)%3 != 0 && m(w, r, serve)
	}
}

var misbehaviours = []struct {
	name  string
	apply misbehaviour
	// lasts is how long the misbehaviour lasts after the ADD in a short run.
	lasts time.Duration
}{
	{"away", func(http.ResponseWriter, *http.Request, http.Handler) bool { panic(http.ErrAbortHandler) }, time.Second},
	{"slow", func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		select {
		case <-time.After(1500 * time.Millisecond):
		case <-r.Context().Done():
		}
		return false
	}, 0},
	{"hangs", func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool { <-r.Context().Done(); return true }, 0},
	{"429", refuse(http.StatusTooManyRequests, "TooManyRequests"), time.Second},
	{"429 now and then", twoOfThree(refuse(http.StatusTooManyRequests, "TooManyRequests")), 0},
	{"409 to every write", refuse(http.StatusConflict, "Conflict", http.MethodPatch, http.MethodPost), time.Second},
	{"500", refuse(http.StatusInternalServerError, "InternalError"), time.Second},
	{"503 now and then", twoOfThree(refuse(http.StatusServiceUnavailable, "ServiceUnavailable")), 0},
	{"does what it is asked and never answers", func(_ http.ResponseWriter, r *http.Request, serve http.Handler) bool {
		serve.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}, time.Second},
}

// apiSite is a site whose network definitions and pods are in a real API server behind a frontend.
type apiSite struct {
	*site
	cluster *kubetest.Cluster
	front   *frontend
	ns      string
	// podCount counts pods, so that each one has a name of its own.
	podCount int
	// restarted reports whether the daemon was restarted while the API server was unavailable.
	restarted bool
}

func newAPISite(t *testing.T, kind node.Kind, cluster *kubetest.Cluster, namespace string) *apiSite {
	t.Helper()
	s := &apiSite{site: &site{kind: kind}, cluster: cluster, front: newFrontend(t, cluster), ns: namespace}
	cluster.CreateNamespace(t, s.ns)
	s.Node = node.New(t, node.Options{
		Kind: kind, Kubeconfig: s.front.kubeconfig(t, cluster), API: s.front.addr(), BinDir: binDir,
		Conf: map[string]any{"cniVersion": "1.1.0", "daemonTimeout": "10s", "plainPods": "local"},
	})
	cluster.CreateNetwork(t, s.ns, "plain",
		`{"cniVersion":"1.1.0","type":"bridge","bridge":"br1","isGateway":true,"ipam":`+s.ipam("198.51.100.0/24")+`}`, nil)
	check(t, json.Unmarshal(s.Conf(), &s.conf))
	return s
}

// makePod creates the pod of the site, as an object of the API server and as a sandbox.
func (s *apiSite) makePod(t *testing.T, name, networks string) {
	t.Helper()
	annotations := map[string]string{}
	if networks != "" {
		annotations[networksKey] = networks
	}
	uid := s.cluster.CreatePod(t, s.ns, name, annotations)
	s.pod, s.prev = s.NewPod(t, s.ns, name, uid, annotations), nil
}

// networkStatus returns the names and the first address of the pod's network status in the API server.
func (s *apiSite) networkStatus(t *testing.T) (names []string, ip string) {
	t.Helper()
	value, ok := s.cluster.Annotation(t, s.ns, s.pod.Name, statusKey)
	if !ok {
		return nil, ""
	}
	var list []struct {
		Name string   `json:"name"`
		IPs  []string `json:"ips"`
	}
	check(t, json.Unmarshal([]byte(value), &list))
	for _, e := range list {
		names = append(names, e.Name)
		if ip == "" && len(e.IPs) > 0 {
			ip = e.IPs[0]
		}
	}
	return names, ip
}

// statusIs checks the pod's network status. A daemon writes it sooner or later. A thin plugin writes it within 2 s or
// not at all.
func (s *apiSite) statusIs(t *testing.T, r *row, what string, want []string) {
	t.Helper()
	res := &current.Result{}
	check(t, json.Unmarshal(s.prev, res))
	right := func() bool {
		names, ip := s.networkStatus(t)
		return slices.Equal(names, want) && ip == res.IPs[0].Address.IP.String()
	}
	if s.kind == node.Thin {
		if names, _ := s.networkStatus(t); names != nil && !right() {
			r.bad(t, &r.wrong, 1, "%s: network-status has %v", what, names)
		}
		return
	}
	if !waitFor(t, what+": the status", right) {
		names, ip := s.networkStatus(t)
		r.bad(t, &r.wrong, 1, "%s: network-status has %v and %s, want %v\n%s", what, names, ip, want, s.DaemonLog())
	}
}

// try attaches a pod while the API server misbehaves, and checks the network status after it has recovered.
func (s *apiSite) try(t *testing.T, r *row, n int, networks string) {
	t.Helper()
	fault := misbehaviours[n]
	what := fault.name + ", " + map[bool]string{true: "plain", false: "annotated"}[networks == ""]
	name := "web-" + strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, what)
	want := []string{"cluster"}
	if networks != "" {
		want = append(want, s.ns+"/plain")
	}
	s.makePod(t, name, networks)
	r.try()
	s.front.misbehave(fault.apply)
	err := s.call(t, "ADD")
	lasts := fault.lasts
	if long() {
		lasts *= 10
	}
	time.Sleep(lasts) // the daemon's queue retries meanwhile
	s.front.misbehave(nil)
	var ce *types.Error
	switch {
	case err == nil:
		s.statusIs(t, r, what, want)
	case networks == "" || s.kind == node.Thick:
		// The daemon has cached the definition, and the runtime passed the annotations.
		r.bad(t, &r.stuck, 1, "%s: ADD: %v", what, err)
	case !errors.As(err, &ce) || ce.Code != types.ErrTryAgainLater:
		r.bad(t, &r.stuck, 1, "%s: ADD: %v, want code 11", what, err)
	}
	s.front.misbehave(fault.apply)
	s.del(t, r, what)
	s.clean(t, r, what)

	// Another pod gets the name while the API server still misbehaves. It must not get the network status of the first
	// pod.
	s.cluster.DeletePod(t, s.ns, name)
	s.makePod(t, name, networks)
	s.front.misbehave(nil)
	if err := s.call(t, "ADD"); err != nil {
		r.bad(t, &r.stuck, 1, "%s, recovered: ADD: %v", what, err)
	} else {
		s.statusIs(t, r, what+", recovered", want)
	}
	s.del(t, r, what)
	s.clean(t, r, what)
}

// TestAPIServer checks that a plain pod starts under every misbehaviour of the API server. An annotated pod starts, or
// fails with code 11 if only the API server has its network definitions. The network status that is finally written is
// right.
func TestAPIServer(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Start(t)
	for _, kind := range node.Kinds {
		for i, networks := range []string{"", "plain"} {
			name := string(kind) + map[bool]string{true: "-plain", false: "-annotated"}[networks == ""]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newAPISite(t, kind, cluster, name)
				r := table.row("API server misbehaves, " + string(kind))
				s.makePod(t, "warm", "plain")
				check(t, s.call(t, "ADD"))
				s.del(t, r, "warm")
				for n := range misbehaviours {
					// A short run alternates: what is plain in one subtest is annotated in the other.
					if long() || (n+i+int(kind[2]))%2 == 0 {
						s.try(t, r, n, networks)
					}
				}
				if kind == node.Thick && !waitFor(t, "nothing waits", func() bool { return len(s.waiting(t)) == 0 }) {
					r.bad(t, &r.records, len(s.waiting(t)), "reports left: %v", s.waiting(t))
				}
			})
		}
		t.Run(string(kind)+"-away", func(t *testing.T) {
			t.Parallel()
			newAPISite(t, kind, cluster, "away-"+string(kind)).absences(t)
		})
	}
}
