package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/testutil/node"
)

// TestNoRecursion checks that a network that delegates to Multus is refused before anything is attached, and that a
// delegate that calls Multus in another way is stopped at once (multus-cni#1130).
func TestNoRecursion(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := newSite(t, kind, node.Options{})
			s.api.CreateNetwork(t, s.ns, "self",
				`{"cniVersion":"1.0.0","type":"`+map[node.Kind]string{node.Thin: "multus", node.Thick: "multus-shim"}[kind]+`"}`,
				nil)
			p := s.pod(t, "self", map[string]string{networks: "self"}, false)
			_, err := s.Add(t, s.Conf(), p)
			if err == nil || !strings.Contains(err.Error(), s.ns+"/self of pod "+s.ns+"/self delegates to multus itself") {
				t.Errorf("ADD: %v", err)
			}
			s.delete(t, p)
			cmd := exec.CommandContext(t.Context(), filepath.Join(s.BinDirs[0], "multus"))
			cmd.Env = append(os.Environ(), "MULTUS_DEPTH=1", "CNI_COMMAND=ADD", "CNI_CONTAINERID=x", "CNI_NETNS="+p.Path,
				"CNI_IFNAME=eth0", "CNI_PATH=/x")
			cmd.Stdin = strings.NewReader(string(s.Conf()))
			out, err := cmd.Output()
			if err == nil || !strings.Contains(string(out), "was called by one of its own delegates") {
				t.Errorf("got %s, %v", out, err)
			}
		})
	}
}
