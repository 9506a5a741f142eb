package file

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/engine/plan"
)

// TestList checks that all objects of all files are listed in their order, and that documents which cannot be decoded
// cause an error but hide nothing (behaviour B1, H1).
func TestList(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, data := range map[string]string{
		"a.yaml": "{kind: Pod, apiVersion: v1, metadata: {name: p, uid: u, annotations: {k: v}}}\n---\n: [\n",
		"b.yaml": "{kind: NetworkAttachmentDefinition, apiVersion: k8s.cni.cncf.io/v1, metadata: {name: net, namespace: x, " +
			"annotations: {k8s.v1.cni.cncf.io/resourceName: r}}, spec: {config: '{}'}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []Options{
		{Dir: dir},
		{Files: []string{filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")}},
	} {
		s := New(o)
		pods, err := s.Pods(t.Context())
		if diff := cmp.Diff([]plan.Pod{
			{Ref: plan.Ref{Namespace: "default", Name: "p"}, UID: "u", Annotations: map[string]string{"k": "v"}},
		},
			pods); diff != "" || err == nil {
			t.Errorf("%s: %v\n%s", o, err, diff)
		}
		networks, err := s.Networks(t.Context())
		if diff := cmp.Diff([]plan.Definition{{Ref: plan.Ref{Namespace: "x", Name: "net"}, Config: "{}", ResourceName: "r"}},
			networks); diff != "" || err == nil {
			t.Errorf("%s: %v\n%s", o, err, diff)
		}
	}
	if _, err := New(Options{Dir: filepath.Join(dir, "none")}).Pods(t.Context()); err == nil {
		t.Error("a directory that is not there has no pods")
	}
}
