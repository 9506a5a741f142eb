package faults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multus/internal/failpoint"
	"multus/internal/testutil/node"
)

// point is one pass of a named point in a verb.
type point struct {
	verb, name string
	pass       int
}

func (p point) env() string { return fmt.Sprintf("MULTUS_FAILPOINT=%s:%d", p.name, p.pass) }

func (p point) String() string { return fmt.Sprintf("%s at %s:%d", p.verb, p.name, p.pass) }

// verb is the call that is killed. before brings the pod into the state in which the verb is called.
type verb struct {
	name   string
	before func(t *testing.T, s *site)
	call   func(t *testing.T, s *site, env ...string) error
}

var verbs = []verb{
	{"ADD", fresh, plain("ADD")},
	{"ADD that fails", fresh, func(t *testing.T, s *site, env ...string) error {
		t.Helper()
		good := s.pod.Annotations
		defer func() { s.pod.Annotations = good }()
		s.pod.Annotations = map[string]string{networksKey: "plain,bad"}
		return s.call(t, "ADD", env...)
	}},
	{
		"ADD after ADD", func(t *testing.T, s *site) { t.Helper(); _ = s.call(t, "ADD", "MULTUS_FAILPOINT=ledger.written") },
		plain("ADD"),
	},
	{"DEL", attached, plain("DEL")},
	{"DEL without a record", fresh, plain("DEL")},
	{"CHECK", attached, plain("CHECK")},
	{"GC", attached, func(t *testing.T, s *site, env ...string) error { t.Helper(); return s.gc(t, env) }},
}

func fresh(*testing.T, *site) {}

func attached(t *testing.T, s *site) { t.Helper(); s.attach(t) }

func plain(command string) func(*testing.T, *site, ...string) error {
	return func(t *testing.T, s *site, env ...string) error { t.Helper(); return s.call(t, command, env...) }
}

func (s *site) attach(t *testing.T) {
	t.Helper()
	if err := s.call(t, "ADD"); err != nil {
		t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
	}
}

// trace runs a verb and returns the points that it passes.
func (s *site) trace(t *testing.T, verb string, run func(env ...string) error) []point {
	t.Helper()
	return s.traced(t, verb, func(env ...string) error {
		err := run(env...)
		if err != nil && verb != "ADD that fails" {
			t.Fatalf("%s: %v", verb, err)
		}
		return err
	})
}

// traced is like trace, for a verb that may fail.
func (s *site) traced(t *testing.T, verb string, run func(env ...string) error) []point {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trace")
	_ = run("MULTUS_FAILPOINT_TRACE=" + file)
	b, err := os.ReadFile(file)
	check(t, err)
	var out []point
	passes := map[string]int{}
	for name := range strings.Lines(string(b)) {
		name = strings.TrimSpace(name)
		passes[name]++
		out = append(out, point{verb, name, passes[name]})
	}
	return out
}

// choose selects points for a short run, which leaves out what another site covers: each point of each verb is used
// once, alternately for thin and thick and for each variant. Points that are passed for each network are used twice.
func choose(points []point, kind, variant int) []point {
	if long() {
		return points
	}
	passes := map[string][]point{}
	var order []string
	for _, p := range points {
		if len(passes[p.name]) == 0 {
			order = append(order, p.name)
		}
		passes[p.name] = append(passes[p.name], p)
	}
	var out []point
	for i, name := range order {
		have := passes[name]
		mine := i%len(node.Kinds) == kind
		switch {
		case mine && i/len(node.Kinds)%len(variants) == variant, mine && len(have) > 2 && variants[variant].name == two.name:
			out = append(out, have[rand.IntN(len(have))])
		case name == "routes.moved" || name == "cache.updated":
			out = append(out, have...)
		}
	}
	return out
}

// TestPoints kills the plugin at every named point that a verb passes, for every verb, thin and thick, with every
// variant of networks. The delegates keep running. Every second DEL has neither definitions nor pod.
func TestPoints(t *testing.T) {
	t.Parallel()
	for k, kind := range node.Kinds {
		for i, v := range variants {
			t.Run(fmt.Sprintf("%s/%s", kind, v.name), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, kind, v, nil)
				s.fake(t, "bad", map[string]any{"fail": map[string]any{"ADD": map[string]any{"code": 100, "msg": "no"}}})
				r := table.row(fmt.Sprintf("plugin killed at every point, %s, %s", kind, v.name))
				for _, verb := range verbs {
					s.removeNetworks(t)
					verb.before(t, s)
					points := s.trace(t, verb.name, func(env ...string) error { return verb.call(t, s, env...) })
					s.del(t, r, verb.name)
					s.clean(t, r, verb.name)
					for n, p := range choose(points, k, i) {
						s.removeNetworks(t)
						verb.before(t, s)
						if err := verb.call(t, s, p.env()); !errors.Is(err, errKilled) {
							t.Errorf("%s: not killed: %v", p, err)
						}
						s.recover(t, r, n%2 == 1, p.String())
					}
				}
			})
		}
	}
}

// elsewhere reports whether another test covers a point, because TestPoints does not pass it.
func elsewhere(name string) bool {
	// These are covered by TestDaemonPoints, TestLeavePoints (three), TestDevicePoints, TestHotPlug (three) and
	// TestReattach (three).
	elsewhere := []string{
		"daemon.", "leave.", "fsx.filled", "fsx.replaced", "devices.", "apply.", "runner.", "hotplug.",
		"observe.", "observed.", "reattach.",
	}
	return slices.ContainsFunc(elsewhere, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// TestEveryPointIsPassed checks that each named point is passed by a verb or covered by another test.
func TestEveryPointIsPassed(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thin, variants[2], nil)
	s.fake(t, "bad", map[string]any{"fail": map[string]any{"ADD": map[string]any{"code": 100, "msg": "no"}}})
	var seen []string
	r := &row{fault: "trace"}
	for _, verb := range verbs {
		verb.before(t, s)
		for _, p := range s.trace(t, verb.name, func(env ...string) error { return verb.call(t, s, env...) }) {
			seen = append(seen, p.name)
		}
		s.del(t, r, verb.name)
	}
	for _, name := range failpoint.Names {
		if !slices.Contains(seen, name) && !elsewhere(name) {
			t.Errorf("no verb passes point %s", name)
		}
	}
}
