package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"multus/internal/config"
	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

// monitored is a site whose daemon is scraped by a Prometheus.
type monitored struct {
	*resyncSite
	*prometheus
	proxy *kubetest.Proxy
	*admissionServer
}

// newMonitored returns the site. With auth the daemon serves its metrics to the users of the cluster only.
func newMonitored(t *testing.T, auth string) *monitored {
	t.Helper()
	tool(t, "prometheus")
	proxy, dir := server(t).Proxy(t), t.TempDir()
	address, other := freeAddress(t), freeAddress(t)
	host, port, _ := net.SplitHostPort(address)
	m := &monitored{proxy: proxy, resyncSite: &resyncSite{metrics: address, site: newSite(t, node.Thick, node.Options{
		Dir: dir, Kubeconfig: proxy.Kubeconfig(t), API: proxy.Addr(), Conf: map[string]any{"cniVersion": "1.1.0"},
		DaemonConf: map[string]any{
			"hotPlug": true, "hotPlugLinger": "1s", "statusResync": "1h", "repairAfter": "1ms",
			"metricsPort": json.Number(port), "metricsAddress": host, "metricsAuth": auth,
			"cniResultsDir": filepath.Join(dir, "runtime", "results"),
		},
	})}}
	m.Generated(t)
	m.admissionServer = m.startAdmission(t, other)
	daemon := scrapeJob{target: address}
	if auth != "" {
		daemon.token = m.api.Token()
	}
	m.prometheus = startPrometheus(t, map[string]scrapeJob{"multus": daemon, "multus-admission": {target: other}})
	return m
}

// fake creates a network of a plugin that behaves as fake says.
func (m *monitored) fake(t *testing.T, name string, fake map[string]any) {
	t.Helper()
	behaviour := m.Fake(t, name)
	behaviour["result"] = json.RawMessage(`{"cniVersion":"1.0.0","interfaces":[{"name":"{ifname}","sandbox":"{netns}"}]}`)
	maps.Copy(behaviour, fake)
	b, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": name, "type": name, "fake": behaviour})
	if err != nil {
		t.Fatal(err)
	}
	m.api.CreateNetwork(t, m.ns, name, string(b), nil)
}

// TestAlertsFire checks that each alert fires in a real Prometheus that scrapes a real daemon when its fault is
// injected, and not before (behaviour F74). It also checks the metrics with promtool (behaviour F71).
func TestAlertsFire(t *testing.T) {
	if os.Getenv("REALNODE") == "" {
		t.Skip("only make e2e runs it, with REALNODE=1: it takes a minute and a half")
	}
	m := newMonitored(t, config.AuthKubernetes)
	m.fake(t, "failing", map[string]any{"fail": map[string]any{"ADD": map[string]any{"code": 100, "msg": "no"}}})
	m.fake(t, "slow", map[string]any{"sleep": map[string]string{"ADD": "10.5s"}})
	pod := m.running(t, "web", "mac")
	if got := m.alerts(t, true); len(got) > 0 {
		t.Fatalf("alerts without a fault: %v", got)
	}
	on := map[string]string{"node": "node-a", "job": "multus"}

	n := 0
	failing := func() {
		n++
		p := m.pod(t, fmt.Sprintf("failing-%d", n), map[string]string{networks: "failing"}, true)
		if _, err := m.Add(t, m.Conf(), p); err == nil {
			t.Fatal("ADD with a failing plugin succeeds")
		}
		_ = m.Del(t, m.Conf(), p)
	}
	m.fires(t, "MultusDelegateFailing", map[string]string{"network": m.ns + "/failing"}, "100% of the attachments", failing)
	m.ends(t, "MultusDelegateFailing")

	if _, err := m.Add(t, m.Conf(), m.pod(t, "slow", map[string]string{networks: "slow"}, true)); err != nil {
		t.Fatal(err)
	}
	m.fires(t, "MultusAttachSlow", map[string]string{"node": "node-a"}, "node node-a", nil)

	m.bypass(t, m.pod(t, "missed", map[string]string{networks: "mac"}, true))
	m.fires(t, "MultusPodsWithoutNetworks", map[string]string{"namespace": m.ns}, "1 pods of namespace "+m.ns, nil)

	above := filepath.Join(m.Dir, "etc", "00-another.conflist")
	if err := os.WriteFile(above, []byte(m.Bridge("10.244.0.0/24")), 0o600); err != nil {
		t.Fatal(err)
	}
	m.fires(t, "MultusSlotLost", on, "node node-a does not call Multus", nil)
	if err := os.Remove(above); err != nil {
		t.Fatal(err)
	}
	m.ends(t, "MultusSlotLost")
	generated, file := m.Generated(t), filepath.Join(m.Dir, "etc", "00-multus.conf")
	m.fires(t, "MultusSlotLost", on, "node node-a does not call Multus", func() { // as another network's agent does
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
	if err := os.WriteFile(file, generated, 0o600); err != nil {
		t.Fatal(err)
	}
	m.ends(t, "MultusSlotLost")

	m.proxy.Down()
	if _, err := m.Add(t, m.Conf(), m.pod(t, "unwritten", map[string]string{networks: "mac"}, true)); err != nil {
		t.Fatal(err)
	}
	m.fires(t, "MultusStatusQueueStuck", on, "the network-status of 1 pods", nil)
	m.proxy.Up()
	m.ends(t, "MultusStatusQueueStuck")

	// The runtime does not call STATUS here, so that no runner starts.
	m.api.Annotate(t, m.ns, pod.Name, networks, "mac, br")
	m.fires(t, "MultusHotPlugStuck", on, "1 running pods of node node-a", nil)

	m.checkMetrics(t)
	records := 300
	for i := range records {
		m.leftRecord(t, i)
	}
	m.fires(t, "MultusLedgerGrowing", on, "node-a", func() {
		records++
		m.leftRecord(t, records)
	})

	m.stop()
	m.fires(t, "MultusAdmissionDown", map[string]string{"job": "multus-admission"}, "No replica", nil)
	m.StopDaemon(t)
	m.fires(t, "MultusDaemonDown", on, "daemon of node node-a", nil)
	m.StartDaemon(t)
	m.ends(t, "MultusDaemonDown")
}

// leftRecord writes the record of a sandbox that does not exist.
func (m *monitored) leftRecord(t *testing.T, i int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.State(), fmt.Sprintf("left%08d", i)), []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// checkMetrics checks the metrics of the daemon with promtool, and that they are not for everyone (behaviour F76).
func (m *monitored) checkMetrics(t *testing.T) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // as Prometheus does
	t.Cleanup(transport.CloseIdleConnections)
	get := func(token string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+m.metrics+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	if got := get("of-another-cluster").StatusCode; got != http.StatusUnauthorized {
		t.Errorf("with a wrong token: %d", got)
	}
	cmd := exec.CommandContext(t.Context(), tool(t, "promtool"), "check", "metrics", "--lint=all")
	cmd.Stdin = get(m.api.Token()).Body
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
