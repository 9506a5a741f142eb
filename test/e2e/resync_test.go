package e2e

import (
	"bufio"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// resyncSite is a site whose daemon compares network statuses once a second.
type resyncSite struct {
	*site
	// metrics is the address of the daemon's metrics.
	metrics string
	// patches is the number of PATCHes before what is tested.
	patches int
}

func newResyncSite(t *testing.T, more map[string]any) *resyncSite {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	conf := map[string]any{
		"hotPlug": true, "hotPlugLinger": "1s", "statusResync": "1s", "repair": "off", "metricsPort": json.Number(port),
	}
	maps.Copy(conf, more)
	return &resyncSite{metrics: address, site: newSite(t, node.Thick, node.Options{
		Conf: map[string]any{"cniVersion": "1.1.0"}, DaemonConf: conf,
	})}
}

// running attaches a pod, and waits for its network status.
func (s *resyncSite) running(t *testing.T, name, requested string) *node.Pod {
	t.Helper()
	p := s.pod(t, name, map[string]string{networks: requested}, true)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatal(err)
	}
	s.statusText(t, name)
	return p
}

// metric returns the value of a metric of the daemon.
func (s *resyncSite) metric(t *testing.T, name string) (value int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			if value, err = strconv.Atoi(rest); err != nil {
				t.Fatal(err)
			}
		}
	}
	return value
}

// until waits for a condition, while the runtime calls STATUS.
func (s *resyncSite) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	s.eventually(t, what, func() bool {
		if err := s.Status(t, s.Conf()); err != nil {
			t.Fatalf("STATUS: %v", err)
		}
		return ok()
	})
}

// compared waits for more comparisons.
func (s *resyncSite) compared(t *testing.T, more int) {
	t.Helper()
	const counter = `multus_server_request_total{code="200",handler="/v1/observed",method="post"}`
	begin := s.metric(t, counter)
	s.until(t, "comparisons", func() bool { return s.metric(t, counter) >= begin+more })
}

// written returns how often network statuses were written since the last call, or since mark.
func (s *resyncSite) written(t *testing.T) int {
	t.Helper()
	before := s.patches
	s.patches = s.api.Requests(t, "multus")["PATCH pods/status"]
	return s.patches - before
}

// event waits for the n-th event of a reason, and returns the messages of all.
func (s *resyncSite) event(t *testing.T, pod, reason string, n int) (messages []string) {
	t.Helper()
	s.until(t, reason, func() bool {
		messages = nil
		for _, e := range s.api.Events(t, s.ns, pod) {
			if e.Reason == reason {
				messages = append(messages, e.Message)
			}
		}
		return len(messages) >= n
	})
	if len(messages) != n {
		t.Errorf("%s: %q, want %d", reason, messages, n)
	}
	return messages
}

// shows waits until the network status has an interface with addresses, or does not have it.
func (s *resyncSite) shows(t *testing.T, pod, ifName string, ips ...string) {
	t.Helper()
	s.until(t, "status of "+ifName, func() bool {
		for _, e := range s.status(t, pod) {
			if e.Interface == ifName {
				return slices.Equal(slices.Sorted(slices.Values(e.IPs)), slices.Sorted(slices.Values(ips)))
			}
		}
		return len(ips) == 0
	})
}

// corrected checks that one PATCH was written, and that nothing more is in later comparisons.
func (s *resyncSite) corrected(t *testing.T, what string, want int) {
	t.Helper()
	s.compared(t, 2)
	if got := s.written(t); got != want {
		t.Errorf("%s: %d statuses written, want %d\n%s", what, got, want, s.DaemonLog())
	}
}

// TestStatusStaysTrue checks that the network status of a pod follows what the pod has (behaviour R25-R27): nothing is
// written about pods that are as they were attached, an interface that is deleted and an address that is changed are
// each written once, and what is put back is reported as restored.
func TestStatusStaysTrue(t *testing.T) {
	s := newResyncSite(t, nil)
	p := s.running(t, "web", "mac, br")
	s.running(t, "healthy", three)
	s.running(t, "plain", "")
	s.written(t)
	s.corrected(t, "pods as they were attached", 0)

	br := s.ips(t, "web", "net2")
	testnet.RemoveAddr(t, p.NS, "net2", br[0]+"/24")
	testnet.Addr(t, p.NS, "net2", "203.0.113.77/24")
	s.shows(t, "web", "net2", "203.0.113.77")
	if m := s.event(t, "web", "AddressChanged", 1); !strings.Contains(m[0], "203.0.113.77 instead of "+br[0]) {
		t.Errorf("%q", m)
	}
	s.corrected(t, "an address is changed", 1)
	testnet.RemoveAddr(t, p.NS, "net2", "203.0.113.77/24")
	testnet.Addr(t, p.NS, "net2", br[0]+"/24")
	s.shows(t, "web", "net2", br...)
	s.event(t, "web", "InterfaceRestored", 1)
	s.corrected(t, "an address is put back", 1)

	mac := s.ips(t, "web", "net1")
	testnet.Remove(t, p.NS, "net1")
	s.shows(t, "web", "net1")
	if m := s.event(t, "web", "InterfaceLost", 1); !strings.Contains(m[0], "net1 of network "+s.ns+"/mac") {
		t.Errorf("%q", m)
	}
	s.corrected(t, "an interface is deleted", 1)
	testnet.On(t, s.NS, "uplink0", "net1", "macvlan") // as another program would restore it, with another MAC address
	testnet.Move(t, s.NS, "net1", p.NS)
	testnet.Addr(t, p.NS, "net1", mac[0]+"/24", mac[1]+"/64")
	s.shows(t, "web", "net1", mac...)
	s.event(t, "web", "InterfaceRestored", 2)
	s.corrected(t, "an interface is put back", 1)
	for kind, want := range map[string]int{"lost": 1, "changed": 1, "restored": 2} {
		if got := s.metric(t, `multus_status_drift_total{kind="`+kind+`"}`); got != want {
			t.Errorf("multus_status_drift_total %s: %d, want %d", kind, got, want)
		}
	}
	s.freed(t, p)
}

// ips returns the addresses of an interface in the network status.
func (s *resyncSite) ips(t *testing.T, pod, ifName string) []string {
	t.Helper()
	for _, e := range s.status(t, pod) {
		if e.Interface == ifName {
			return e.IPs
		}
	}
	t.Fatalf("no %s in the network status of %s", ifName, pod)
	return nil
}

// freed deletes a pod, and checks that nothing of its sandbox is left.
func (s *resyncSite) freed(t *testing.T, p *node.Pod) {
	t.Helper()
	if err := s.Del(t, s.Conf(), p); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if left := testnet.Interfaces(t, p.NS); len(left) > 0 {
		t.Errorf("interfaces left: %v", left)
	}
}

// TestReattach checks that interfaces that are lost come back from the record (behaviour R28), also if the definition
// is gone, with the address that the pod requests, and that DEL frees all.
func TestReattach(t *testing.T) {
	s := newResyncSite(t, map[string]any{"reattach": true})
	s.api.CreateNetwork(t, s.ns, "fixed",
		`{"cniVersion":"1.0.0","type":"macvlan","master":"uplink0","mode":"bridge","capabilities":{"ips":true},"ipam":{"type":"static"}}`,
		nil)
	p := s.running(t, "web", `[{"name":"fixed","interface":"data0","ips":["192.0.2.77/24"]},{"name":"br"}]`)
	s.written(t)
	s.api.DeleteNetwork(t, s.ns, "fixed")
	testnet.Remove(t, p.NS, "data0")
	s.event(t, "web", "InterfaceLost", 1)
	s.event(t, "web", "InterfaceRestored", 1)
	s.shows(t, "web", "data0", "192.0.2.77")
	if d := cmp.Diff([]string{"data0", "eth0", "net2"}, testnet.Interfaces(t, p.NS)); d != "" {
		t.Errorf("interfaces (-want +got):\n%s", d)
	}
	if err := testnet.Ping(p.NS, "192.0.2.1"); err != nil {
		t.Error(err)
	}
	s.compared(t, 2)
	if n := s.written(t); n < 1 || n > 2 { // without it and with it, or only with it
		t.Errorf("%d statuses written", n)
	}
	s.delete(t, p)
}
