package faults

import (
	"errors"
	"fmt"
	"testing"

	"multus/internal/testutil/node"
)

// lastPlugins are plugins that fail at ADD after other plugins of the chain have attached, and that fail at DEL, too.
var lastPlugins = []struct{ short, name, script string }{
	{"version", "refuses the CNI version", `[ "$CNI_COMMAND" = VERSION ] ||
{ echo '{"cniVersion":"1.0.0","code":1,"msg":"incompatible CNI versions"}'; exit 1; }`},
	{"words", "fails ADD and DEL with its own error", `case "$CNI_COMMAND" in ADD|DEL)
echo '{"cniVersion":"1.0.0","code":100,"msg":"I do not know this chain"}'; exit 1;; esac`},
}

// failingChain defines the network chain, whose last plugin is script.
func (s *site) failingChain(t *testing.T, script string) {
	t.Helper()
	s.script(t, "last", script)
	s.define(t, "chain", fmt.Sprintf(
		`{"cniVersion":"1.0.0","name":"chain","plugins":[{"type":"bridge","bridge":"br2","isGateway":true,"ipam":%s},{"type":"script-last"}]}`, s.ipam("203.0.113.0/24")))
}

// TestChainPoints kills the plugin at every point that it passes with a network whose last plugin fails at ADD. The
// other plugins of the chain have attached then, and the last one fails at DEL, too. TestChainPoints checks that DEL
// frees everything.
func TestChainPoints(t *testing.T) {
	t.Parallel()
	for k, kind := range node.Kinds {
		for i, last := range lastPlugins {
			if !long() && i != k {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", kind, last.short), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, kind, two, nil)
				s.failingChain(t, last.script)
				r := table.row(fmt.Sprintf("last plugin of a chain %s, plugin killed at every point, %s", last.name, kind))
				for _, verb := range []verb{
					{"ADD that fails", fresh, plain("ADD")},
					{"DEL", func(t *testing.T, s *site) { t.Helper(); s.refused(t) }, plain("DEL")},
					{"DEL after a kill", func(t *testing.T,
						s *site,
					) {
						t.Helper()
						_ = s.call(t, "ADD", "MULTUS_FAILPOINT=undo.before")
					}, plain("DEL")},
				} {
					s.chainPoints(t, r, verb)
				}
			})
		}
	}
}

// refused checks that ADD of the site's pod fails because of the chain, and that nothing is attached afterwards.
func (s *site) refused(t *testing.T) {
	t.Helper()
	if err := s.call(t, "ADD"); err == nil {
		t.Error("ADD succeeds although the last plugin of the chain fails")
	}
	if left := interfaces(t, s.pod.NS); len(left) > 0 {
		t.Errorf("not undone: %v", left)
	}
}

// chainPoints kills the plugin at the points of one verb. The next ADD of the pod after each try is without the chain.
func (s *site) chainPoints(t *testing.T, r *row, verb verb) {
	t.Helper()
	good := s.pod.Annotations
	chain := map[string]string{networksKey: "plain,chain"}
	defer func() { s.pod.Annotations = good }()
	s.pod.Annotations = chain
	s.removeNetworks(t)
	verb.before(t, s)
	points := s.traced(t, verb.name, func(env ...string) error { return verb.call(t, s, env...) })
	s.del(t, r, verb.name)
	s.clean(t, r, verb.name)
	for n, p := range points {
		if !long() && n%6 != 0 {
			continue
		}
		s.pod.Annotations = chain
		s.removeNetworks(t)
		verb.before(t, s)
		if err := verb.call(t, s, p.env()); !errors.Is(err, errKilled) {
			t.Errorf("%s: not killed: %v", p, err)
		}
		r.try()
		s.del(t, r, p.String())
		s.clean(t, r, p.String())
		s.pod.Annotations = good
		s.recover(t, r, n%12 == 6, p.String()+", next ADD")
	}
}
