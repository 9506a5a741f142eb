package realnode

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/source/kube"
	"multus/internal/testutil/cluster"
)

// TestTwoNodes checks that pods of two nodes have their networks and reach each other over the cluster network, and
// that the credentials of one node's daemon cannot write to pods of the other node. The daemons may not read pods
// (deploy/components/runtime-annotations), because this runtime passes the annotations.
func TestTwoNodes(t *testing.T) {
	n := start(t, cluster.Options{Nodes: 2})
	n.installWith(t, "runtime-annotations")
	for i, on := range []*cluster.Cluster{n.Cluster, n.Others[0]} {
		name := fmt.Sprintf("pod-%d", i)
		n.apply(t, strings.Replace(pod(name, extra), "spec:", "spec:\n  nodeName: "+on.Node, 1))
	}
	n.untilAttached(t, "pod-0", "pod-1")
	a, b := n.pod(t, "pod-0"), n.pod(t, "pod-1")
	for _, pair := range [][2]*corev1.Pod{{a, b}, {b, a}} {
		seen, err := n.ask(t, pair[0], "/reach?to="+url.QueryEscape(pair[1].Status.PodIP))
		if err != nil || strings.TrimPrefix(string(seen), "::ffff:") != pair[0].Status.PodIP {
			t.Errorf("%s reaches %s as %q: %v", pair[0].Name, pair[1].Name, seen, err)
		}
	}
	t.Run("credentials of one node", func(t *testing.T) { n.credentials(t, a, b) })
	for _, p := range []*corev1.Pod{a, b} {
		until(t, "events of "+p.Name, func() error { return n.hasEvents(t, p) })
		n.remove(t, p.Name)
	}
}

func (n *node) pod(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// credentials uses the token that the kubelet gave to the daemon of the first node.
func (n *node) credentials(t *testing.T, own, other *corev1.Pod) {
	files, err := filepath.Glob(n.Path(n.paths.Kubelet + "/pods/*/volumes/kubernetes.io~projected/*/token"))
	if err != nil {
		t.Fatal(err)
	}
	var token string
	config := n.RESTConfig()
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		config.BearerToken = string(b)
		if kube.Account(config) == "system:serviceaccount:kube-system:multus" {
			token = string(b)
		}
	}
	if token == "" {
		t.Fatalf("no token of the daemon among %q", files)
	}
	config.BearerToken = token
	client, err := kube.New(config)
	if err != nil {
		t.Fatal(err)
	}
	set := func(p *corev1.Pod) error {
		return client.SetStatus(t.Context(), request.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)},
			nadv1.NetworkStatusAnnot, p.Annotations[nadv1.NetworkStatusAnnot], nil)
	}
	if err := set(own); err != nil {
		t.Errorf("status of a pod of the own node: %v", err)
	}
	if err := set(other); !errors.Is(err, publish.ErrRefused) || !strings.Contains(err.Error(), "own node") {
		t.Errorf("status of a pod of the other node: %v", err)
	}
	raw, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.CoreV1().Pods("default").Get(t.Context(), own.Name,
		metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("pods can be read: %v", err)
	}
}

// hasEvents returns an error unless the pod has its events with the name of its node.
func (n *node) hasEvents(t *testing.T, p *corev1.Pod) error {
	t.Helper()
	about := fields.Set{"involvedObject.name": p.Name, "reason": "AddedInterface"}.AsSelector().String()
	l, err := n.Client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: about})
	if err != nil {
		return err
	}
	if len(l.Items) < 3 {
		return fmt.Errorf("%d events", len(l.Items))
	}
	for i := range l.Items {
		if e := &l.Items[i]; e.ReportingInstance != p.Spec.NodeName || e.Source.Host != p.Spec.NodeName {
			return fmt.Errorf("event of %q, host %q", e.ReportingInstance, e.Source.Host)
		}
	}
	return nil
}
