package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// TestNetworksMissing checks that a pod whose sandbox was attached while the CNI configuration file was missing, so
// that the runtime called the cluster network alone, gets an event that names its networks, and that a pod that Multus
// attached gets none (behaviour R14).
func TestNetworksMissing(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, node.Thick, node.Options{Dir: dir, DaemonConf: map[string]any{
		"hotPlug": true, "hotPlugLinger": "1s", "repairAfter": "1ms",
		"cniResultsDir": filepath.Join(dir, "runtime", "results"),
	}})
	annotations := map[string]string{networks: "mac, br"}
	missed := s.pod(t, "missed", annotations, true)
	if _, err := s.Add(t, []byte(s.Bridge("10.244.0.0/24")), missed); err != nil {
		t.Fatal(err)
	}
	attached := s.pod(t, "attached", annotations, true)
	if _, err := s.Add(t, s.Conf(), attached); err != nil {
		t.Fatal(err)
	}
	var messages []string
	s.eventually(t, "the event", func() bool {
		messages = nil
		for _, e := range s.api.Events(t, s.ns, "missed") {
			if e.Reason == "NetworksMissing" {
				messages = append(messages, e.Message)
			}
		}
		return len(messages) > 0
	})
	if len(messages) != 1 || !strings.Contains(messages[0], "(mac, br)") {
		t.Errorf("events: %q", messages)
	}
	for _, e := range s.api.Events(t, s.ns, "attached") {
		if e.Reason == "NetworksMissing" {
			t.Errorf("a pod with its networks is reported: %s", e.Message)
		}
	}
	if err := s.Del(t, []byte(s.Bridge("10.244.0.0/24")), missed); err != nil {
		t.Error(err)
	}
	s.delete(t, attached)
}

// TestNetworksAttachedLate checks that a pod which runs without its networks gets them without a restart, and that its
// DEL frees them and the cluster network (behaviour R15).
func TestNetworksAttachedLate(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, node.Thick, node.Options{
		Dir: dir, Conf: map[string]any{"cniVersion": "1.1.0"}, DaemonConf: map[string]any{
			"hotPlug": true, "hotPlugLinger": "1s", "repair": "attach", "repairAfter": "1ms",
			"cniResultsDir": filepath.Join(dir, "runtime", "results"),
		},
	})
	p := s.pod(t, "missed", map[string]string{networks: "mac, br@data0"}, true)
	bypass := []byte(s.Bridge("10.244.0.0/24"))
	res, err := s.Add(t, bypass, p)
	if err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the networks", func() bool {
		if err := s.Status(t, s.Conf()); err != nil {
			t.Fatalf("STATUS: %v", err)
		}
		_, attached := s.api.Annotation(t, s.ns, "missed", status)
		return attached
	})
	if d := cmp.Diff([]string{"data0", "eth0", "net1"}, testnet.Interfaces(t, p.NS)); d != "" {
		t.Errorf("interfaces (-want +got):\n%s", d)
	}
	got := s.status(t, "missed")
	if len(got) != 3 || !got[0].Default || got[0].Interface != "eth0" ||
		!slices.Equal(got[0].IPs, []string{res.IPs[0].Address.IP.String()}) {
		t.Errorf("network status: %+v", got)
	}
	if err := s.Del(t, s.Conf(), p); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if err := s.Del(t, bypass, p); err != nil { // for what the runtime has cached about it
		t.Errorf("DEL without Multus: %v", err)
	}
	if left := s.Left(t); len(left) > 0 {
		t.Errorf("left after DEL: %v", left)
	}
}
