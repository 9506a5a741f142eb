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

// sick is one way in which an API server misbehaves. It answers the request itself and returns true, or leaves it to
// the real server.
type sick func(w http.ResponseWriter, r *http.Request, serve http.Handler) (answered bool)

// frontend stands before the real API server and is well or sick.
type frontend struct {
	server *httptest.Server
	sick   atomic.Pointer[sick]
}

func newFrontend(t *testing.T, c *kubetest.Cluster) *frontend {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.CA())
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: c.Addr()})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	proxy.FlushInterval = -1 // watches
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	f := &frontend{}
	f.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := f.sick.Load(); s != nil && (*s)(w, r, proxy) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0) // who is cut off says so
	t.Cleanup(func() { check(t, f.server.Config.Close()) })
	return f
}

// is makes the server sick, or well again with nil.
func (f *frontend) is(s sick) {
	if s == nil {
		f.sick.Store(nil)
		return
	}
	f.sick.Store(&s)
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

// refuse answers as the API server's priority and fairness, or a broken etcd, does.
func refuse(code int, reason string, methods ...string) sick {
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

// seldomWell lets every third request through.
func seldomWell(s sick) sick {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request, serve http.Handler) bool {
		return n.Add(1)%3 != 0 && s(w, r, serve)
	}
}

var sicknesses = []struct {
	name string
	sick sick
	// lasts is how long after the ADD it lasts, in the short form.
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
	{"429 now and then", seldomWell(refuse(http.StatusTooManyRequests, "TooManyRequests")), 0},
	{"409 to every write", refuse(http.StatusConflict, "Conflict", http.MethodPatch, http.MethodPost), time.Second},
	{"500", refuse(http.StatusInternalServerError, "InternalError"), time.Second},
	{"503 now and then", seldomWell(refuse(http.StatusServiceUnavailable, "ServiceUnavailable")), 0},
	{"does what it is asked and never answers", func(_ http.ResponseWriter, r *http.Request, serve http.Handler) bool {
		serve.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}, time.Second},
}

// apiSite is a site whose networks and pods are in a real API server behind a frontend.
type apiSite struct {
	*site
	cluster *kubetest.Cluster
	front   *frontend
	ns      string
	// visits counts pods, so that each has a name of its own.
	visits int
	// forgot tells that the daemon was started while the API server was away.
	forgot bool
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

// pod makes the site's pod: in the API server, and as a sandbox.
func (s *apiSite) makePod(t *testing.T, name, networks string) {
	t.Helper()
	annotations := map[string]string{}
	if networks != "" {
		annotations[networksKey] = networks
	}
	uid := s.cluster.CreatePod(t, s.ns, name, annotations)
	s.pod, s.prev = s.NewPod(t, s.ns, name, uid, annotations), nil
}

// told is what the API server says of the pod's networks.
func (s *apiSite) told(t *testing.T) (names []string, ip string) {
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

// statusIs waits for the pod's status: with the daemon it comes; thin writes it within 2 s or not at all.
func (s *apiSite) statusIs(t *testing.T, r *row, what string, want []string) {
	t.Helper()
	res := &current.Result{}
	check(t, json.Unmarshal(s.prev, res))
	right := func() bool {
		names, ip := s.told(t)
		return slices.Equal(names, want) && ip == res.IPs[0].Address.IP.String()
	}
	if s.kind == node.Thin {
		if names, _ := s.told(t); names != nil && !right() {
			r.bad(t, &r.wrong, 1, "%s: network-status has %v", what, names)
		}
		return
	}
	if !eventually(t, what+": the status", right) {
		names, ip := s.told(t)
		r.bad(t, &r.wrong, 1, "%s: network-status has %v and %s, want %v\n%s", what, names, ip, want, s.DaemonLog())
	}
}

// try attaches a pod while the API server is sick, and looks what it says once it is well.
func (s *apiSite) try(t *testing.T, r *row, n int, networks string) {
	t.Helper()
	sickness := sicknesses[n]
	what := sickness.name + ", " + map[bool]string{true: "plain", false: "annotated"}[networks == ""]
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
	s.front.is(sickness.sick)
	err := s.call(t, "ADD")
	lasts := sickness.lasts
	if long() {
		lasts *= 10
	}
	time.Sleep(lasts) // the queue tries again and again meanwhile
	s.front.is(nil)
	var ce *types.Error
	switch {
	case err == nil:
		s.statusIs(t, r, what, want)
	case networks == "" || s.kind == node.Thick:
		// The daemon has the definition, and the runtime passed the annotations.
		r.bad(t, &r.stuck, 1, "%s: ADD: %v", what, err)
	case !errors.As(err, &ce) || ce.Code != types.ErrTryAgainLater:
		r.bad(t, &r.stuck, 1, "%s: ADD: %v, want code 11", what, err)
	}
	s.front.is(sickness.sick)
	s.del(t, r, what)
	s.clean(t, r, what)

	// Another pod takes the name while the API server is still sick: what is left of the first one's status is no
	// business of it.
	s.cluster.DeletePod(t, s.ns, name)
	s.makePod(t, name, networks)
	s.front.is(nil)
	if err := s.call(t, "ADD"); err != nil {
		r.bad(t, &r.stuck, 1, "%s, well again: ADD: %v", what, err)
	} else {
		s.statusIs(t, r, what+", well again", want)
	}
	s.del(t, r, what)
	s.clean(t, r, what)
}

// TestAPIServer: whatever the API server does, a plain pod starts; an annotated one starts, or fails with code 11 where
// nobody but the API server knows its networks; the status that is written in the end is the right one.
func TestAPIServer(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Start(t)
	for _, kind := range node.Kinds {
		for i, networks := range []string{"", "plain"} {
			name := string(kind) + map[bool]string{true: "-plain", false: "-annotated"}[networks == ""]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newAPISite(t, kind, cluster, name)
				r := table.row("API server sick, " + string(kind))
				s.makePod(t, "warm", "plain")
				check(t, s.call(t, "ADD"))
				s.del(t, r, "warm")
				for n := range sicknesses {
					// In the short form by turns: what is plain with one is annotated with the other.
					if long() || (n+i+int(kind[2]))%2 == 0 {
						s.try(t, r, n, networks)
					}
				}
				if kind == node.Thick && !eventually(t, "nothing waits", func() bool { return len(s.waiting(t)) == 0 }) {
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
