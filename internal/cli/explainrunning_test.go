package cli

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
)

// runningPods has a pod for each difference from what recordSandbox records: team-a/net as net1, with a MAC address.
const runningPods = `apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: net, namespace: team-a}
spec: {config: '{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth1", "capabilities": {"mac": true}}'}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: team-a
  uid: uid-web-0
  annotations: {k8s.v1.cni.cncf.io/networks: '[{"name": "net", "mac": "02:00:00:00:00:01"}]'}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: team-a
  uid: uid-web-1
  annotations: {k8s.v1.cni.cncf.io/networks: 'net@data0, missing@data1, net@eth0', k8s.v1.cni.cncf.io/network-status: '[{"name": "cbr0"}, {"name": "team-a/gone"}]'}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-2
  namespace: team-a
  uid: uid-web-2
  annotations: {k8s.v1.cni.cncf.io/networks: net}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-3
  namespace: team-a
  uid: uid-web-3
  annotations: {k8s.v1.cni.cncf.io/networks: a/b/c}
---
apiVersion: v1
kind: Pod
metadata: {name: web-4, namespace: team-a, uid: uid-web-4}
---
apiVersion: v1
kind: Pod
metadata: {name: web-5, namespace: team-a, uid: another}
---
apiVersion: v1
kind: Pod
metadata: {name: web-6, namespace: team-a}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: team-a}
spec: {hostNetwork: true}
`

// newRunningNode records sandboxes, and returns their state directory and the arguments of explain for them.
func newRunningNode(t *testing.T) (state string, args []string) {
	t.Helper()
	dir := t.TempDir()
	state = filepath.Join(dir, "state")
	for container, pod := range map[string]string{
		"aaaa0": "web-0", "aaaa1": "web-1", "aaaa2": "web-2", "aaaa3": "web-3", "aaaa5": "web-5",
	} {
		recordSandbox(t, state, container, pod, "/proc/self/ns/net")
	}
	recordSandbox(t, state, "aaaa4", "web-4", "/nowhere/netns")
	s := &ledger.Store{Dir: state, Log: slog.New(slog.DiscardHandler)}
	l, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"late","type":"bridge"}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Survey("aaaa1", "eth0")
	if err == nil {
		err = s.Extend(r, &ledger.Attachment{Name: "team-a/late", IfName: "net7", Config: l, Args: r.Attachments[0].Args})
	}
	if err != nil {
		t.Fatal(err)
	}
	conf, objects := filepath.Join(dir, "00-multus.conf"), filepath.Join(dir, "objects", "objects.yaml")
	if err := os.Mkdir(filepath.Dir(objects), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, conf, `{"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus-shim",
		"clusterNetwork": "/nowhere/10-cluster.conflist", "cniDir": "`+state+`", "binDir": "/nowhere/bin"}`)
	write(t, objects, runningPods)
	return state, []string{"explain", "--running", "--config", conf, "--networks-dir", filepath.Dir(objects), "pod"}
}

// TestExplainRunning checks what explain --running prints for each kind of difference between the record of a sandbox
// and what its pod requests, that a sandbox that is left alone is explained, and that nothing is changed.
func TestExplainRunning(t *testing.T) {
	t.Parallel()
	state, args := newRunningNode(t)
	before := tree(t, state)
	for _, tc := range []struct {
		pod  string
		code int
		want string
	}{
		{"web-0", OK, "pod team-a/web-0, container aaaa0\nnothing to change: the pod has the networks that it requests\n\n"},
		{"web-1", Found, `pod team-a/web-1, container aaaa1
would be removed: net7: team-a/late, because its ADD was not finished
would be removed: net1: team-a/net
would be added: data0: team-a/net
   network        team-a/net  annotation k8s.v1.cni.cncf.io/networks
   interface      data0       annotation k8s.v1.cni.cncf.io/networks
   configuration  macvlan     network-attachment-definition team-a/net
   name           net         default: the name of the network-attachment-definition
   cniVersion     1.0.0       configuration
   macvlan gets
     {
       "capabilities": {
         "mac": true
       },
       "cniVersion": "1.0.0",
       "master": "eth1",
       "name": "net",
       "type": "macvlan"
     }
refused: data1: team-a/missing, code 7: error loading k8s delegates k8s args: pod team-a/web-1, ` +
			`annotation k8s.v1.cni.cncf.io/networks: cannot find a network-attachment-definition (missing) in namespace (team-a): find network definition team-a/missing: not found in the files of "OBJECTS"
  create the network-attachment-definition, or correct the annotation k8s.v1.cni.cncf.io/networks of the pod
refused: eth0: team-a/net, code 7: network team-a/net of pod team-a/web-1: interface name eth0 already exists: ` +
			`network cbr0 has it
  give each element of the annotation another interface
the network status is about other networks: it would be written again

`},
		{"web-2", OK, `pod team-a/web-2, container aaaa2
ignored: interface net1 of network team-a/net stays as it is: a change of mac in the annotation has no effect on a running pod; ` +
			`remove the element and add it again, or create the pod again

`},
		{"web-3", Found, `pod team-a/web-3, container aaaa3
nothing would be changed, code 7: error loading k8s delegates k8s args: failed to parse annotation ` +
			`k8s.v1.cni.cncf.io/networks of pod team-a/web-3: element 1 ("a/b/c"): more than one "/": want [namespace/]name[@interface]
  correct the annotation of the pod, or of the controller that makes it

`},
		{"web-4", Found, `pod team-a/web-4, container aaaa4
nothing would be changed: the network namespace /nowhere/netns is gone

`},
		{"agent", OK, "pod team-a/agent\n" + noNetwork + "\n\n"},
	} {
		t.Run(tc.pod, func(t *testing.T) {
			t.Parallel()
			code, out, errs := call(t, nil, append(args, "team-a/"+tc.pod)...)
			out = strings.ReplaceAll(out, filepath.Join(filepath.Dir(state), "objects"), "OBJECTS")
			if diff := cmp.Diff(tc.want, out); diff != "" || code != tc.code {
				t.Errorf("%d %s (-want +got):\n%s", code, errs, diff)
			}
		})
	}
	t.Cleanup(func() {
		if diff := cmp.Diff(before, tree(t, state)); diff != "" {
			t.Errorf("something was changed:\n%s", diff)
		}
	})
}

// TestExplainRunningErrors checks that a pod without a record on the node is an error that says what to do, also if the
// record is that of an earlier pod of this name, and that a pod that does not exist is an error.
func TestExplainRunningErrors(t *testing.T) {
	t.Parallel()
	state, args := newRunningNode(t)
	const next = "name the node on which it runs with --node NODE (kubectl get pod -n team-a web-6 -o wide)"
	for pod, want := range map[string]string{
		"team-a/web-5": "error: pod team-a/web-5 has no record in " + state + " on this node; a record of that name has",
		"team-a/web-6": "error: pod team-a/web-6 has no record in " + state + " on this node: " + next,
		"team-a/none":  "not found",
	} {
		code, out, errs := call(t, nil, append(args, pod)...)
		if code != Found || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: %d %q %q", pod, code, out, errs)
		}
	}
}

// TestExplainRunningJSON checks the form of -o json, that a pod of a file is compared like one of the cluster, and the
// note about a daemon that changes nothing.
func TestExplainRunningJSON(t *testing.T) {
	t.Parallel()
	state, args := newRunningNode(t)
	dir := filepath.Dir(state)
	daemon, pod := filepath.Join(dir, "daemon-config.json"), filepath.Join(dir, "pod.yaml")
	write(t, daemon, `{"hotPlug": false}`)
	write(t, pod, "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, namespace: team-a, annotations: "+
		"{k8s.v1.cni.cncf.io/networks: 'net,net'}}\n")
	code, out, errs := call(t, nil, append(args, "team-a/web-0", "-o", "json", "-f", pod, "--daemon-config", daemon)...)
	var got struct{ Pods []runningOutput }
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != OK || len(got.Pods) != 1 {
		t.Fatalf("%d %v\n%s%s", code, err, out, errs)
	}
	o := got.Pods[0]
	if o.Container != "aaaa0" || len(o.Add) != 1 || o.Add[0].IfName != "net2" || len(o.Ignored) != 1 ||
		o.Ignored[0].IfName != "net1" || len(o.Notes) != 1 || !strings.Contains(o.Notes[0], "hotPlug is not set") {
		t.Errorf("%s", out)
	}
	if !strings.Contains(out, `"remove": []`) || !strings.Contains(out, "default: the first free name") {
		t.Errorf("%s", out)
	}
}
