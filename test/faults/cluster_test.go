package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

// maxPause bounds the time after an outage until definitions are listed or watched again. The back-off of client-go is
// up to half a minute, and with jitter up to twice as much.
const maxPause = 90 * time.Second

// changingSite is a thick site whose daemon reads its credentials from files, as in a pod, and reaches the API server
// through a proxy.
type changingSite struct {
	*apiSite
	proxy *kubetest.Proxy
	renew func()
}

// requested returns the requests for network definitions with these verbs (GET, LIST or WATCH) in their order.
func (s *changingSite) requested(t *testing.T, verbs ...string) (got []string) {
	t.Helper()
	for _, r := range s.cluster.Log(t, "multus") {
		if verb, what, _ := strings.Cut(r.What, " "); what == "network-attachment-definitions" &&
			slices.Contains(verbs, verb) {
			got = append(got, verb)
		}
	}
	return got
}

// follows waits until the daemon uses a cached definition without a GET request, which shows that its watch is
// established.
func (s *changingSite) follows(t *testing.T, r *row, network string) {
	t.Helper()
	within(t, "definitions are watched", maxPause, func() bool {
		before := len(s.requested(t, "GET"))
		_, err := s.attachAndDelete(t, r, network, true)
		return err == nil && len(s.requested(t, "GET")) == before
	})
}

func newChangingSite(t *testing.T, cluster *kubetest.Cluster, namespace string) *changingSite {
	t.Helper()
	return newChangingSiteWith(t, cluster, namespace, nil)
}

// newChangingSiteWith is like newChangingSite, with a configuration of the daemon.
func newChangingSiteWith(t *testing.T, cluster *kubetest.Cluster, namespace string, daemon map[string]any,
) *changingSite {
	t.Helper()
	s := &changingSite{
		apiSite: &apiSite{site: &site{kind: node.Thick}, cluster: cluster, ns: namespace},
		proxy:   cluster.Proxy(t),
	}
	var kubeconfig string
	kubeconfig, s.renew = cluster.CredentialFiles(t, s.proxy.Addr())
	cluster.CreateNamespace(t, s.ns)
	s.Node = node.New(t, node.Options{
		Kind: node.Thick, Kubeconfig: kubeconfig, API: s.proxy.Addr(), BinDir: binDir,
		Conf: map[string]any{"cniVersion": "1.1.0", "daemonTimeout": "3s", "plainPods": "local"}, DaemonConf: daemon,
	})
	check(t, json.Unmarshal(s.Conf(), &s.conf))
	return s
}

// bridged returns the configuration of a network. Its subnet is 198.51.<subnet>.0/24.
func (s *changingSite) bridged(subnet int) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","type":"bridge","bridge":"br%d","ipam":%s}`, subnet,
		s.ipam(fmt.Sprintf("198.51.%d.0/24", subnet)))
}

// probe returns the status code of a path of the daemon's socket.
func (s *changingSite) probe(t *testing.T, path string) int {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.SocketDir(), "multus.sock"))
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: waitTimeout}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://multus"+path, http.NoBody)
	check(t, err)
	resp, err := c.Do(req)
	check(t, err)
	check(t, resp.Body.Close())
	return resp.StatusCode
}

// attachAndDelete attaches a new pod to a network, or to none, and deletes it. It returns the result and the error of
// ADD. With want, the network status must contain the networks.
func (s *changingSite) attachAndDelete(t *testing.T, r *row, network string, want bool) (result string, err error) {
	t.Helper()
	r.try()
	s.podCount++
	s.makePod(t, fmt.Sprintf("pod-%d", s.podCount), network)
	err = s.call(t, "ADD")
	result = string(s.prev)
	if err == nil && want {
		names := []string{"cluster"}
		if network != "" {
			names = append(names, s.ns+"/"+network)
		}
		s.statusIs(t, r, s.pod.Name, names)
	}
	s.removePod(t, r)
	s.clean(t, r, s.pod.Name)
	return result, err
}

// plainStarts checks that a plain pod starts, which requires nothing of the API server.
func (s *changingSite) plainStarts(t *testing.T, r *row, what string) {
	t.Helper()
	if _, err := s.attachAndDelete(t, r, "", true); err != nil {
		r.bad(t, &r.stuck, 1, "%s: ADD of a plain pod: %v", what, err)
	}
	if code := s.probe(t, "/healthz"); code != http.StatusOK {
		r.bad(t, &r.stuck, 1, "%s: /healthz answers %d", what, code)
	}
}

// starts waits until annotated pods start and get their network status.
func (s *changingSite) starts(t *testing.T, r *row, network, what string) {
	t.Helper()
	var err error
	ok := waitFor(t, what+": annotated pods start",
		func() bool { _, err = s.attachAndDelete(t, r, network, true); return err == nil })
	if !ok {
		r.bad(t, &r.stuck, 1, "%s: ADD: %v\n%s", what, err, s.DaemonLog())
	}
}

// fails waits until annotated pods are refused with this reason.
func (s *changingSite) fails(t *testing.T, r *row, network, reason, what string) {
	t.Helper()
	var err error
	ok := waitFor(t, what+": annotated pods are refused",
		func() bool { _, err = s.attachAndDelete(t, r, network, false); return err != nil })
	if !ok || !strings.Contains(err.Error(), reason) {
		r.bad(t, &r.stuck, 1, "%s: ADD: %v, want %q in it", what, err, reason)
	}
}

// TestClusterChanges checks that the daemon notices changes of the cluster while it runs: the CRD of network
// definitions is missing at its start and is created later; the API server answers the daemon's watch with 410; the CRD
// is deleted and created again; the token or the certificate authority is replaced.
func TestClusterChanges(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Start(t)
	cluster.DeleteCRD(t)
	s := newChangingSite(t, cluster, "changes")

	r := table.row("CRD missing, created, deleted, created again")
	s.plainStarts(t, r, "CRD missing")
	if code := s.probe(t, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("CRD missing: /readyz answers %d", code)
	}
	s.fails(t, r, "lan", "CustomResourceDefinition", "CRD missing")
	cluster.CreateCRD(t)
	cluster.CreateNetwork(t, s.ns, "lan", s.bridged(100), nil)
	s.starts(t, r, "lan", "CRD created")
	s.ready(t, "CRD created")
	s.compacted(t) // first: for some time after the deletion of the CRD the daemon may have no watch
	cluster.DeleteCRD(t)
	s.fails(t, r, "lan", "CustomResourceDefinition", "CRD deleted")
	s.plainStarts(t, r, "CRD deleted")
	cluster.CreateCRD(t)
	cluster.CreateNetwork(t, s.ns, "lan", s.bridged(101), nil)
	s.starts(t, r, "lan", "CRD created again")
	s.uses(t, r, "lan", "br101", "CRD created again")
	s.ready(t, "CRD created again")
	if !long() {
		return
	}
	// client-go reads the token file every minute, and the file of the certificate authority every five minutes.
	s.rotated(t, "token", 2*time.Minute, cluster.RotateToken)
	s.rotated(t, "certificate authority", 7*time.Minute, cluster.RotateCA)
}

// ready waits until /readyz answers 200.
func (s *changingSite) ready(t *testing.T, what string) {
	t.Helper()
	within(t, what+": /readyz answers 200", maxPause, func() bool { return s.probe(t, "/readyz") == http.StatusOK })
}

// uses waits until the network's definition with this bridge is used.
func (s *changingSite) uses(t *testing.T, r *row, network, bridge, what string) {
	t.Helper()
	var last string
	if !waitFor(t, what+": the new definition is used", func() bool {
		r.try()
		s.podCount++
		s.makePod(t, fmt.Sprintf("pod-%d", s.podCount), network)
		err := s.call(t, "ADD")
		b := interfaces(t, s.NS)
		last = fmt.Sprintf("%v, %v", b, err)
		s.removePod(t, r)
		return err == nil && strings.Contains(strings.Join(b, " "), bridge)
	}) {
		r.bad(t, &r.wrong, 1, "%s: the node has %s", what, last)
	}
}

// compacted disconnects the daemon while definitions change, and compacts etcd and the API server's cache beyond the
// changes.
func (s *changingSite) compacted(t *testing.T) {
	t.Helper()
	r := table.row("API server has lost the position of the watch (410)")
	s.cluster.CreateNetwork(t, s.ns, "old", s.bridged(100), nil)
	s.starts(t, r, "old", "before")
	s.follows(t, r, "old")
	// client-go does not continue a watch that ended at once and without an event. It lists again, and 410 would not be
	// tested. So send an event first.
	s.cluster.UpdateNetwork(t, s.ns, "lan", s.bridged(102))
	s.uses(t, r, "lan", "br102", "before")
	s.proxy.Down()
	s.cluster.DeleteNetwork(t, s.ns, "old")
	s.cluster.UpdateNetwork(t, s.ns, "lan", s.bridged(103))
	s.cluster.Compact(t)
	before, lists := len(s.requested(t, "LIST", "WATCH")), len(s.requested(t, "LIST"))
	s.proxy.Up()
	s.fails(t, r, "old", "old", "after 410")
	s.uses(t, r, "lan", "br103", "after 410")
	s.plainStarts(t, r, "after 410")
	// Until now, definitions may have been requested one by one.
	within(t, "definitions are listed again", maxPause, func() bool { return len(s.requested(t, "LIST")) > lists })
	// The 410 is the first event of a watch that is answered with 200. TestCacheListsAnewAfter410 checks it.
	if after := s.requested(t, "LIST", "WATCH")[before:]; len(after) == 0 || after[0] != "WATCH" {
		t.Errorf("requests %q, want a watch at the last position, and then a list", after)
	}
}

// rotated replaces the daemon's credentials. Before the daemon's files are updated, plain pods start, and so do pods
// whose definitions are cached. Within limit after the update every network status is right.
func (s *changingSite) rotated(t *testing.T, what string, limit time.Duration, rotate func(testing.TB)) {
	t.Helper()
	r := table.row(what + " of the daemon rotated")
	s.follows(t, r, "lan") // after an outage it may take some time until definitions are cached again
	r.try()
	rotate(t)
	s.podCount++
	s.makePod(t, fmt.Sprintf("waits-%d", s.podCount), "lan")
	if err := s.call(t, "ADD"); err != nil {
		r.bad(t, &r.stuck, 1, "%s: ADD with a definition that is known: %v", what, err)
	}
	if names, _ := s.networkStatus(t); len(names) > 0 {
		t.Errorf("%s: the status is written: nothing is shown", what)
	}
	s.renew()
	within(t, what+": a status is written", limit, func() bool { names, _ := s.networkStatus(t); return len(names) > 0 })
	s.statusIs(t, r, what, []string{"cluster", s.ns + "/lan"})
	s.removePod(t, r)
	s.clean(t, r, what)
	s.starts(t, r, "lan", what)
	s.ready(t, what)
}
