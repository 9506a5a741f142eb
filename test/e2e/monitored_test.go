package e2e

import (
	"encoding/json"
	"maps"
	"net"
	"path/filepath"
	"testing"

	"multus/internal/testutil/node"
	"multus/internal/testutil/prometheus"
	"multus/internal/testutil/tool"
)

// freeAddress returns an address of the loopback that no program listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// monitored is a site whose daemon and admission server are scraped by a Prometheus.
type monitored struct {
	*resyncSite
	*prometheus.Server
	*admissionServer
}

func newMonitored(t *testing.T) *monitored {
	t.Helper()
	tool.Path(t, "prometheus")
	dir, address, other := t.TempDir(), freeAddress(t), freeAddress(t)
	host, port, _ := net.SplitHostPort(address)
	m := &monitored{resyncSite: &resyncSite{metrics: address, site: newSite(t, node.Thick, node.Options{
		Dir: dir, Conf: map[string]any{"cniVersion": "1.1.0"},
		DaemonConf: map[string]any{
			"hotPlug": true, "hotPlugLinger": "1s", "statusResync": "1h", "repairAfter": "1ms",
			"metricsPort": json.Number(port), "metricsAddress": host,
			"cniResultsDir": filepath.Join(dir, "runtime", "results"),
		},
	})}}
	m.Generated(t)
	m.admissionServer = m.startAdmission(t, other)
	on := map[string]string{"node": "node-a"}
	m.Server = prometheus.Start(t, prometheus.Here(t, freeAddress(t)), []prometheus.Scrape{
		prometheus.Static("multus", address, on), prometheus.Static("multus-admission", other, on),
	}, nil)
	m.UntilUp(t, "multus", 1)
	m.UntilUp(t, "multus-admission", 1)
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
