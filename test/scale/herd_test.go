package scale

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"multus/internal/source/kube"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/kubetest"
)

const (
	// nodesInHerd and definitionsOfHerd are limited by the machine that runs the test.
	nodesInHerd       = 100
	definitionsOfHerd = 500
	// outage is how long the API server is down. It is longer than a restart of the API server, so that all nodes notice
	// it.
	outage = 10 * time.Second
)

// herd is the load after the API server is up again.
type herd struct {
	Nodes, Definitions int
	Outage             time.Duration
	// Watches and Lists are the first requests of each node, relative to the first request of all nodes.
	Watches, Lists spread
	Requests       map[string]int
}

// spread describes how the requests of the nodes are distributed over time.
type spread struct {
	Count            int
	Median, P90, Max time.Duration
	// Busiest is the number of requests in the busiest second.
	Busiest int
}

func spreadOf(times []time.Time, start time.Time) spread {
	if len(times) == 0 {
		return spread{}
	}
	slices.SortFunc(times, time.Time.Compare)
	after := func(i int) time.Duration { return times[i].Sub(start) }
	s := spread{
		Count: len(times), Median: after(len(times) / 2), P90: after(len(times) * 9 / 10),
		Max: after(len(times) - 1),
	}
	for i := range times {
		n := 0
		for _, later := range times[i:] {
			if later.Sub(times[i]) < time.Second {
				n++
			}
		}
		s.Busiest = max(s.Busiest, n)
	}
	return s
}

// measureHerd stops the API server while many nodes are connected, and starts it again. A node is the daemon's cache
// with a connection of its own.
func measureHerd(t *testing.T) herd {
	t.Helper()
	cluster := kubetest.Start(t)
	d := &definitions{cluster: cluster}
	d.upTo(t, definitionsOfHerd)
	stop := startHerd(t, cluster)
	defer stop()
	before := cluster.Requests(t, daemonAgent)
	cluster.Kill(t)
	time.Sleep(outage)
	back := time.Now()
	cluster.Restart(t)
	var first map[string][]time.Time
	if !eventually.Is(waitTimeout+outage, func() bool {
		first = firsts(cluster.Log(t, daemonAgent), back)
		return len(first[list]) == nodesInHerd && len(first[watch]) == nodesInHerd
	}) {
		t.Logf("of %d nodes %d began a watch and %d read the list", nodesInHerd, len(first[watch]), len(first[list]))
	}
	out := herd{
		Nodes: nodesInHerd, Definitions: d.have, Outage: outage,
		Requests: minus(cluster.Requests(t, daemonAgent), before),
	}
	if len(first[watch]) == 0 {
		t.Fatal("no node came back")
	}
	start := slices.MinFunc(slices.Concat(first[watch], first[list]), time.Time.Compare)
	out.Watches, out.Lists = spreadOf(first[watch], start), spreadOf(first[list], start)
	return out
}

// firsts returns, by request, when each agent made the request for the first time after a point in time.
func firsts(log []kubetest.Request, after time.Time) map[string][]time.Time {
	out, seen := map[string][]time.Time{}, map[string]bool{}
	for _, r := range log {
		if key := r.Agent + " " + r.What; r.At.After(after) && !seen[key] {
			seen[key] = true
			out[r.What] = append(out[r.What], r.At)
		}
	}
	return out
}

func startHerd(t *testing.T, cluster *kubetest.Cluster) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	path := cluster.Kubeconfig(t)
	for i := range nodesInHerd {
		c, err := kube.Load(kube.Options{Kubeconfig: path, Version: fmt.Sprintf("herd-%03d", i)})
		must(t, err)
		c.Dial = (&net.Dialer{}).DialContext // its own, because clients with equal configurations share a connection
		client, err := kube.New(c)
		must(t, err)
		cache := kube.NewCache(client, slog.New(slog.DiscardHandler))
		wg.Go(func() { cache.Run(ctx) })
		eventually.Within(t, waitTimeout, "a node of the herd", cache.Synced)
	}
	eventually.Within(t, waitTimeout, "the watches of the herd",
		func() bool { return cluster.Requests(t, daemonAgent)[watch] >= nodesInHerd })
	return func() { cancel(); wg.Wait() }
}
