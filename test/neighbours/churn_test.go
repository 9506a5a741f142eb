package neighbours

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"multus/internal/testutil/node"
)

// rounds returns the number of rounds of churn: NEIGHBOURS_ROUNDS, or 10.
func rounds() int {
	n, err := strconv.Atoi(os.Getenv("NEIGHBOURS_ROUNDS"))
	if err != nil || n < 1 {
		return 10
	}
	return n
}

// churn keeps a few pods attached. In each round one pod is attached, one is deleted while GC runs, and all are
// checked.
func churn(t *testing.T, d deployment) {
	const alive = 3
	dir := tempDir(t)
	s := newSite(t, d, node.Options{Dir: dir, Quiet: true, Primary: collectedPrimary(dir)})
	s.define(t, "east", collected("east", "10.70.0.0/24")(s))
	s.define(t, "west", strings.Replace(on("bridge", "10.71.0.0/24", `,"bridge":"br-west","isGateway":true`)(s), "1.0.0",
		"1.1.0", 1))
	c := &crio{s: s}
	held := map[*node.Pod][]string{}
	for i := range rounds() {
		p := s.with(t, "east,west")
		if _, err := c.setUp(t, p); err != nil {
			t.Fatalf("round %d: a pod is refused: %v\n%s", i, err, s.log())
		}
		held[p] = s.addresses(t, p)
		if len(held[p]) != 3 {
			t.Fatalf("round %d: addresses of a new pod: %v", i, held[p])
		}
		var leaving *node.Pod
		if len(c.sandboxes) > alive {
			leaving = c.sandboxes[0]
		}
		c.collectBeside(t, i, leaving)
		delete(held, leaving)
		c.verify(t, i, held)
		if t.Failed() {
			return
		}
	}
	for len(c.sandboxes) > 0 {
		if err := c.tearDown(t, c.sandboxes[0]); err != nil {
			t.Fatal(err)
		}
	}
	if left := s.Left(t); len(left) > 0 {
		t.Errorf("left at the end: %v", left)
	}
}

// collectBeside runs GC while a pod that is still in its list is torn down. leaving may be nil.
func (c *crio) collectBeside(t *testing.T, round int, leaving *node.Pod) {
	t.Helper()
	done := make(chan error, 1)
	listed := &crio{s: c.s, sandboxes: append([]*node.Pod(nil), c.sandboxes...)}
	go func() { done <- listed.gc(t, c.s.outer) }()
	if leaving != nil {
		if err := c.tearDown(t, leaving); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("round %d: GC: %v", round, err)
	}
	if leaving != nil {
		c.s.gone(t, leaving)
	}
}

// verify checks that every live pod passes CHECK and still has its addresses, and that no address belongs to two pods.
func (c *crio) verify(t *testing.T, round int, held map[*node.Pod][]string) {
	t.Helper()
	owner := map[string]string{}
	for p, want := range held {
		got := c.s.addresses(t, p)
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("round %d: %s holds %v, was given %v", round, p.Name, got, want)
		}
		for _, a := range got {
			if other, ok := owner[a]; ok {
				t.Errorf("round %d: %s is held by %s and %s", round, a, other, p.Name)
			}
			owner[a] = p.Name
		}
	}
	if lost, err := c.restart(t); len(lost) > 0 || err != nil {
		t.Errorf("round %d: CHECK: %v; GC: %v", round, lost, err)
	}
}
