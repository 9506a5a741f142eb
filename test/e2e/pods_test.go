package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// informerWait is how long today's daemon waits for a pod that is missing in its cache (behaviour D14, D17).
const informerWait = 2500 * time.Millisecond

// refused checks that ADD fails with code 11 and these words and leaves nothing, and that DEL succeeds afterwards.
func (s *site) refused(t *testing.T, conf []byte, p *node.Pod, words ...string) {
	t.Helper()
	_, err := s.Add(t, conf, p)
	var ce *types.Error
	if !errors.As(err, &ce) || ce.Code != types.ErrTryAgainLater {
		t.Fatalf("ADD: %v, want code 11", err)
	}
	names(t, ce.Msg, words...)
	if left := testnet.Interfaces(t, p.NS); len(left) > 0 {
		t.Errorf("attached: %v", left)
	}
	if _, err := os.Stat(filepath.Join(s.State(), p.ContainerID)); err == nil {
		t.Error("there is a record")
	}
	s.gone(t, s.Conf(), p)
}

// gone runs DEL and checks that nothing of this sandbox is left. Other sandboxes may still be attached.
func (s *site) gone(t *testing.T, conf []byte, p *node.Pod) {
	t.Helper()
	if err := s.Del(t, conf, p); err != nil {
		t.Errorf("DEL: %v\n%s", err, s.DaemonLog())
	}
	if left := testnet.Interfaces(t, p.NS); len(left) > 0 {
		t.Errorf("interfaces left in the pod: %v", left)
	}
	for _, name := range s.Left(t) {
		b, err := os.ReadFile(filepath.Join(s.Dir, name))
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(name, p.ContainerID) || strings.Contains(string(b), p.ContainerID) {
			t.Errorf("left after DEL: %s", name)
		}
	}
}

// TestPods checks pods that differ from what the runtime passes: deleted pods, another pod of the same name, static
// pods, pods that are deleted while they start (behaviour C1, C2, D14-D21, D53, D60, D111, D123, D124, A44, A45; Q32;
// docs/architecture.md, "What happens when something is missing").
func TestPods(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			over := map[string]any{}
			if kind == node.Thick {
				over["kubeconfig"] = "/nonexistent" // A44: the daemon has a kubeconfig of its own
			}
			s := newSite(t, kind, node.Options{Conf: over})
			t.Run("not found", s.podNotFound)
			t.Run("another UID", s.podOtherUID)
			t.Run("static", s.podStatic)
			t.Run("deleted meanwhile", s.podDeletedMeanwhile)
			t.Run("same name again", s.podSameName)
			t.Run("named like a system namespace", func(t *testing.T) { s.podSystemName(t, kind) })
		})
	}
}

func (s *site) podNotFound(t *testing.T) {
	for name, over := range map[string]map[string]any{"ghost": nil, "ghost-old": {"cniVersion": "0.3.1"}} { // D21: crashes today
		p := s.NewPod(t, s.ns, name, "uid-"+name, nil)
		s.refused(t, edited(t, s.Conf(), over), p, "Multus: ["+s.ns+"/"+name+"/uid-"+name+"]: ",
			"error waiting for pod "+s.ns+"/"+name)
	}
}

func (s *site) podOtherUID(t *testing.T) {
	uid := s.api.CreatePod(t, s.ns, "swapped", map[string]string{networks: "mac"})
	p := s.NewPod(t, s.ns, "swapped", "uid-before", nil)
	s.refused(t, s.Conf(), p, `expected pod UID "uid-before" but got "`+uid+`"`)
	if value, ok := s.api.Annotation(t, s.ns, "swapped", status); ok {
		t.Errorf("the other pod has a status: %s", value)
	}
}

// podStatic checks a static pod. The runtime passes the UID from the kubelet, and the mirror pod has another UID.
func (s *site) podStatic(t *testing.T) {
	for name, passed := range map[string]bool{"mirror": false, "mirror-passed": true} {
		p := s.pod(t, name, map[string]string{"kubernetes.io/config.source": "file", networks: "mac"}, passed)
		p.UID = "hash-of-the-manifest"
		start := time.Now()
		if _, err := s.Add(t, s.Conf(), p); err != nil {
			t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
		}
		if took := time.Since(start); took > 2*informerWait {
			t.Errorf("ADD took %s", took)
		}
		if got := s.status(t, name); len(got) != 2 || got[1].Name != s.ns+"/mac" {
			t.Errorf("network-status: %+v", got)
		}
		s.gone(t, s.Conf(), p)
	}
}

func (s *site) podDeletedMeanwhile(t *testing.T) {
	p := s.pod(t, "deleted", map[string]string{networks: "mac"}, false)
	s.api.DeletePod(t, s.ns, "deleted")
	s.refused(t, s.Conf(), p, "error waiting for pod "+s.ns+"/deleted")

	// If a pod is deleted while a delegate runs, ADD succeeds, no network status is written, and DEL frees everything
	// (D123).
	m := s.Fake(t, "slow")
	m["sleep"] = map[string]string{"ADD": "1s"}
	s.api.CreateNetwork(t, s.ns, "slow",
		string(edited(t, []byte(`{"cniVersion":"1.0.0","type":"slow"}`), map[string]any{"fake": m})), nil)
	p = s.pod(t, "leaving", map[string]string{networks: "slow,mac"}, false)
	added := make(chan error, 1)
	go func() {
		_, err := s.Add(t, s.Conf(), p)
		added <- err
	}()
	s.eventually(t, "the slow network", func() bool { return len(s.Calls(t)) > 0 })
	s.api.DeletePod(t, s.ns, "leaving")
	if err := <-added; err != nil {
		t.Errorf("ADD: %v", err)
	}
	if got := strings.Join(testnet.Interfaces(t, p.NS), " "); got != "eth0 net2" {
		t.Errorf("attached: %s", got)
	}
	s.gone(t, s.Conf(), p)
}

// podSameName checks a pod of a StatefulSet that is created again under its name. The old sandbox is deleted after the
// new one was attached.
func (s *site) podSameName(t *testing.T) {
	first := s.pod(t, "web-0", map[string]string{networks: "mac"}, false)
	if _, err := s.Add(t, s.Conf(), first); err != nil {
		t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
	}
	s.api.DeletePod(t, s.ns, "web-0")
	second := s.pod(t, "web-0", map[string]string{networks: "mac,br"}, false)
	if _, err := s.Add(t, s.Conf(), second); err != nil {
		t.Fatalf("ADD of the successor: %v\n%s", err, s.DaemonLog())
	}
	before := s.status(t, "web-0")
	s.gone(t, s.Conf(), first)
	if err := s.Check(t, s.Conf(), second); err != nil {
		t.Errorf("CHECK of the successor: %v", err)
	}
	if err := testnet.Ping(second.NS, "192.0.2.1"); err != nil {
		t.Error(err)
	}
	// A further ADD for the old pod is refused, and its DEL without a record does not touch the new sandbox.
	third := s.NewPod(t, s.ns, "web-0", first.UID, nil)
	s.refused(t, s.Conf(), third, "expected pod UID")
	after := s.status(t, "web-0")
	if len(after) != 3 || after[1].IPs[0] != before[1].IPs[0] {
		t.Errorf("status of the successor: %+v, was %+v", after, before)
	}
	s.gone(t, s.Conf(), second)
	if got := s.status(t, "web-0"); len(got) != 3 { // D124
		t.Errorf("DEL changed the status: %+v", got)
	}
}

// podSystemName checks that a pod gets a network status whatever its name is, and that the annotation of 3.x is left as
// it is. Events exist when ADD has returned, also those of a thin plugin, which has exited by then.
func (s *site) podSystemName(t *testing.T, kind node.Kind) {
	const old = "k8s.v1.cni.cncf.io/networks-status"
	p := s.pod(t, "kube-system", map[string]string{networks: "mac", old: "of 3.x"}, false)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
	}
	added := map[string]string{}
	look := func() bool {
		for _, e := range s.api.Events(t, s.ns, "kube-system") {
			if e.Reason == "AddedInterface" {
				added[strings.Fields(e.Message)[1]] = e.Source.Component
			}
		}
		return len(added) == 2
	}
	if kind == node.Thin && !look() {
		t.Errorf("the plugin has ended, and its events are not there: %v", added)
	}
	s.eventually(t, "the events", look)
	if added["eth0"] != "multus" || added["net1"] != "multus" {
		t.Errorf("events: %v", added)
	}
	if got := s.status(t, "kube-system"); len(got) != 2 {
		t.Errorf("network-status: %+v", got)
	}
	if value, _ := s.api.Annotation(t, s.ns, "kube-system", old); value != "of 3.x" {
		t.Errorf("%s: %q", old, value)
	}
	s.gone(t, s.Conf(), p)
}

// TestSlowAPIServer checks that ADD succeeds if each answer of the API server takes longer than today's plugin and
// daemon wait for it (behaviour D13, D15).
func TestSlowAPIServer(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			slow := newSlowAPI(t)
			s := newSite(t, kind, node.Options{Kubeconfig: slow.kubeconfig, API: slow.addr})
			p := s.pod(t, "patient", map[string]string{networks: "mac"}, false)
			slow.slow(300 * time.Millisecond)
			if _, err := s.Add(t, s.Conf(), p); err != nil {
				t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
			}
			slow.slow(0)
			s.gone(t, s.Conf(), p)
		})
	}
}

// TestOutage checks pods while the API server is unavailable. Pods whose networks are known are attached, and their
// network status is written later. Other pods fail with code 11 (docs/architecture.md, "What happens when something is
// missing"; behaviour D16, B8).
func TestOutage(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel() // the test waits most of the time
			proxy := server(t).Proxy(t)
			s := newSite(t, kind, node.Options{Kubeconfig: proxy.Kubeconfig(t), API: proxy.Addr()})
			warm := s.pod(t, "warm", map[string]string{networks: "mac"}, true)
			if _, err := s.Add(t, s.Conf(), warm); err != nil {
				t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
			}
			known := s.pod(t, "known", map[string]string{networks: "mac"}, true)
			asked := s.pod(t, "asked", nil, false)
			unknown := s.pod(t, "unknown", map[string]string{networks: "never-seen"}, true)
			plain := s.pod(t, "plain", nil, true)
			proxy.Down()
			s.api.CreateNetwork(t, s.ns, "never-seen", `{"cniVersion":"1.0.0","type":"macvlan","master":"uplink0"}`, nil)
			s.refused(t, s.Conf(), unknown, s.ns+"/unknown", "never-seen")
			s.refused(t, s.Conf(), asked, "error waiting for pod "+s.ns+"/asked")
			if _, err := s.Add(t, s.Conf(), plain); err != nil {
				t.Errorf("ADD of a plain pod: %v", err)
			}
			if kind == node.Thin {
				s.refused(t, s.Conf(), known, s.ns+"/known", s.ns+")")
			} else if _, err := s.Add(t, s.Conf(), known); err != nil {
				t.Errorf("ADD of a pod whose network is known: %v", err)
			}
			proxy.Up()
			if kind == node.Thick {
				for _, name := range []string{"known", "plain"} {
					s.statusText(t, name)
				}
				if got := s.status(t, "known"); len(got) != 2 {
					t.Errorf("network-status: %+v", got)
				}
			}
			for _, p := range []*node.Pod{warm, plain, known} {
				s.gone(t, s.Conf(), p)
			}
		})
	}
}
