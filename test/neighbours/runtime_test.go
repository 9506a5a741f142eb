package neighbours

import (
	"fmt"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"multus/internal/testutil/node"
)

// crio makes the calls of CRI-O. It sends CHECK immediately after each ADD, to read the network status of the pod. When
// it starts, it sends CHECK for every sandbox and then GC, as soon as STATUS succeeds. If a CHECK fails, the pod loses
// its sandbox.
type crio struct {
	s *site
	// sandboxes are the sandboxes of CRI-O.
	sandboxes []*node.Pod
}

// setUp attaches a pod. If CHECK fails, setUp tears the sandbox down, as CRI-O does.
func (c *crio) setUp(t *testing.T, p *node.Pod) (*current.Result, error) {
	t.Helper()
	res, err := c.s.Add(t, c.s.outer, p)
	if err != nil {
		_ = c.s.Del(t, c.s.outer, p) // CRI-O reports the error of ADD
		return nil, fmt.Errorf("ADD: %w", err)
	}
	if err := c.s.Check(t, c.s.outer, p); err != nil {
		_ = c.s.Del(t, c.s.outer, p)
		return nil, fmt.Errorf("CHECK right after ADD: %w", err)
	}
	c.sandboxes = append(c.sandboxes, p)
	return res, nil
}

// tearDown detaches a pod.
func (c *crio) tearDown(t *testing.T, p *node.Pod) error {
	t.Helper()
	if err := c.s.Del(t, c.s.outer, p); err != nil {
		return fmt.Errorf("DEL: %w", err)
	}
	c.sandboxes = slices.DeleteFunc(c.sandboxes, func(q *node.Pod) bool { return q == p })
	return nil
}

// restart makes the calls of CRI-O at its start. It returns an error for each sandbox whose CHECK failed. The kubelet
// replaces these sandboxes.
func (c *crio) restart(t *testing.T) (lost []error, gc error) {
	t.Helper()
	if err := c.s.Status(t, c.s.outer); err != nil {
		t.Errorf("STATUS: %v\n%s", err, c.s.log())
	}
	for _, p := range c.sandboxes {
		if err := c.s.Check(t, c.s.outer, p); err != nil {
			lost = append(lost, fmt.Errorf("CHECK of %s: %w", p.Name, err))
		}
	}
	return lost, c.gc(t, c.s.outer)
}

// gc sends both spellings of the list. Without sandboxes the list is null, because libcni encodes a nil slice so.
func (c *crio) gc(t *testing.T, conf []byte) error {
	t.Helper()
	var valid []types.GCAttachment
	for _, p := range c.sandboxes {
		valid = append(valid, types.GCAttachment{ContainerID: p.ContainerID, IfName: "eth0"})
	}
	return c.s.Collect(t, conf, valid)
}

// containerd makes the calls of containerd with go-cni: ADD, DEL and STATUS. containerd sends neither CHECK nor GC.
type containerd struct{ s *site }

// run attaches and detaches a pod. between is called while the pod is attached.
func (c *containerd) run(t *testing.T, p *node.Pod, between func()) {
	t.Helper()
	if err := c.s.Status(t, c.s.outer); err != nil {
		t.Errorf("STATUS: %v\n%s", err, c.s.log())
	}
	if _, err := c.s.Add(t, c.s.outer, p); err != nil {
		t.Errorf("ADD: %v\n%s", err, c.s.log())
	} else if between != nil {
		between()
	}
	if err := c.s.Del(t, c.s.outer, p); err != nil {
		t.Errorf("DEL: %v\n%s", err, c.s.log())
	}
	c.s.gone(t, p)
}
