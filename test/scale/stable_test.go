package scale

import (
	"fmt"
	"maps"
	"testing"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

const (
	list   = "LIST network-attachment-definitions"
	watch  = "WATCH network-attachment-definitions"
	lookup = "GET network-attachment-definitions"
	status = "PATCH pods/status"
	events = "POST events"
)

// TestStable checks the requests of one node to the API server. A change that increases a figure must change it here:
// in a large cluster the requests come from 5,000 nodes.
func TestStable(t *testing.T) {
	testnet.RequireRoot(t)
	cluster := kubetest.Start(t)
	s := newSite(t, cluster, "pods")
	d := &definitions{cluster: cluster}
	const many, changes, tries = 100, 50, 10
	d.upTo(t, many)
	size := d.size(t, 0)

	equal := func(what string, got traffic, want map[string]int) {
		t.Helper()
		if !maps.Equal(got.Requests, want) {
			t.Errorf("%s: requests %v, want %v", what, got.Requests, want)
		}
	}
	measured := func(what string, do func(), want map[string]int) traffic {
		t.Helper()
		got := s.traffic(t, do, requests(want))
		equal(what, got, want)
		return got
	}
	atMost := func(what string, got, limit float64) {
		t.Helper()
		if got > limit {
			t.Errorf("%s: %.2f, want at most %.2f", what, got, limit)
		}
	}

	started := measured("start", func() { s.start(t) }, map[string]int{list: 1, watch: 1, "GET nodes": 1})
	atMost("bytes of the list beside those of its definitions: it is compressed", float64(started.Down)/float64(many*size),
		0.25)
	for _, networks := range [][]string{nil, {"noop-1", "noop-2"}} {
		what := fmt.Sprintf("pod with %d networks, ADD and DEL", len(networks))
		measured(what, func() {
			p := s.pod(t, fmt.Sprintf("p%d", len(networks)), networks...)
			_, err := s.Add(t, s.conf(t), p)
			must(t, err)
			must(t, s.Del(t, s.conf(t), p))
		}, map[string]int{status: 1, events: 1 + len(networks)})
	}
	got := s.traffic(t, func() {
		for i := range changes {
			d.change(t, i, 1)
		}
	}, bytes(changes*size))
	equal("changes of definitions", got, map[string]int{})
	atMost("bytes of an event beside those of the definition", float64(got.Down)/float64(changes*size), 1.1)
	measured("lost connection", func() { s.proxy.Down(); s.proxy.Up() }, map[string]int{watch: 1})
	// Both ADD and DEL, which has no record, request the definition from the API server.
	measured("a pod whose network does not exist", func() { s.fail(t, s.pod(t, "wrong", "nowhere"), tries) },
		map[string]int{lookup: 2 * tries, events: 1})
}

// fail repeats an ADD that cannot succeed, and its DEL, as a runtime does.
func (s *site) fail(t *testing.T, p *node.Pod, tries int) {
	t.Helper()
	for range tries {
		if _, err := s.Add(t, s.conf(t), p); err == nil {
			t.Error("a network that does not exist was attached")
		}
		must(t, s.Del(t, s.conf(t), p))
	}
}
