package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/testutil/node"
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
