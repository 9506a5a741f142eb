package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/kubetest"
)

// The tests of this file need a real API server. A test double cannot imitate what it does with a UID in a patch, what
// it answers for an unknown resource, and how a watch resumes after an outage.

const (
	statusKey = "k8s.v1.cni.cncf.io/network-status"
	confX     = `{"cniVersion": "1.0.0",  "type": "macvlan"}` + "\n"
)

func TestAgainstAPIServer(t *testing.T) {
	t.Parallel()
	cluster := kubetest.StartWith(t, kubetest.Options{RBAC: true})
	t.Run("reads", func(t *testing.T) { t.Parallel(); testReads(t, cluster) })
	t.Run("annotation", func(t *testing.T) { t.Parallel(); testAnnotation(t, cluster) })
	t.Run("edit", func(t *testing.T) { t.Parallel(); testEdit(t, cluster) })
	t.Run("readiness gate", func(t *testing.T) { t.Parallel(); testGate(t, cluster) })
	t.Run("no patch", func(t *testing.T) { t.Parallel(); testWithoutPatch(t, cluster) })
	t.Run("events", func(t *testing.T) { t.Parallel(); testEvents(t, cluster) })
	t.Run("no permission", func(t *testing.T) { t.Parallel(); testNoRights(t, cluster) })
	t.Run("bad token", func(t *testing.T) { t.Parallel(); testBadToken(t, cluster) })
	t.Run("unknown resource", func(t *testing.T) { t.Parallel(); testUnknownResource(t, cluster) })
	t.Run("cache", func(t *testing.T) { t.Parallel(); testCache(t, cluster) })
}

func testReads(t *testing.T, cluster *kubetest.Cluster) {
	config, err := Load(Options{Kubeconfig: cluster.Kubeconfig(t), Version: "reads"})
	if err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, config)
	cluster.CreateNamespace(t, "reads")
	uid := cluster.CreatePod(t, "reads", "p", map[string]string{"k8s.v1.cni.cncf.io/networks": "x"})
	cluster.CreateNetwork(t, "reads", "x", confX, map[string]string{netsel.ResourceName: "vendor.example/nic"})
	cluster.CreateNetwork(t, "reads", "bare", "", nil)

	pod, err := c.Pod(t.Context(), plan.Ref{Namespace: "reads", Name: "p"})
	if err != nil || pod.UID != uid || pod.Annotations["k8s.v1.cni.cncf.io/networks"] != "x" {
		t.Errorf("Pod = %+v, %v", pod, err)
	}
	def, err := c.Network(t.Context(), plan.Ref{Namespace: "reads", Name: "x"})
	if err != nil || def.Config != confX || def.ResourceName != "vendor.example/nic" {
		t.Errorf("Network = %+v, %v", def, err)
	}
	if def, err = c.Network(t.Context(), plan.Ref{Namespace: "reads", Name: "bare"}); err != nil || def.Config != "" {
		t.Errorf("Network without spec = %+v, %v", def, err)
	}
	_, err = c.Pod(t.Context(), plan.Ref{Namespace: "reads", Name: "none"})
	checkErr(t, "Pod", err, plan.ErrNotFound, plan.ErrNotFound, plan.ErrUnavailable)
	_, err = c.Network(t.Context(), plan.Ref{Namespace: "none", Name: "none"})
	checkErr(t, "Network", err, plan.ErrNotFound, plan.ErrNotFound, plan.ErrUnavailable)
	if strings.Contains(err.Error(), "CustomResourceDefinition") {
		t.Errorf("error %q names the CRD, which exists", err)
	}
	for request, n := range cluster.Requests(t, "multus/reads") {
		if !strings.HasPrefix(request, "GET pods") && !strings.HasPrefix(request, "GET network-attachment-definitions") {
			t.Errorf("%d unexpected requests %s", n, request)
		}
	}
}

func testAnnotation(t *testing.T, cluster *kubetest.Cluster) {
	config := cluster.RESTConfig()
	config.UserAgent = "multus/annotation"
	c := clientOf(t, config)
	const ns = "annotation"
	cluster.CreateNamespace(t, ns)
	uid := cluster.CreatePod(t, ns, "p", map[string]string{"keep": "me"})
	for _, pod := range []request.Pod{{Namespace: ns, Name: "p", UID: uid}, {Namespace: ns, Name: "p"}} {
		value := fmt.Sprintf("[\n{\"uid\": %q}]", pod.UID)
		if err := c.SetStatus(t.Context(), pod, statusKey, value, nil); err != nil {
			t.Fatal(err)
		}
		if got, _ := cluster.Annotation(t, ns, "p", statusKey); got != value {
			t.Errorf("annotation = %q, want %q", got, value)
		}
	}
	if got, _ := cluster.Annotation(t, ns, "p", "keep"); got != "me" {
		t.Errorf("another annotation became %q", got)
	}
	if got := cluster.Requests(t, "multus/annotation"); len(got) != 1 || got["PATCH pods/status"] != 2 {
		t.Errorf("requests for two annotations: %v", got)
	}

	// A 422 that is not about the UID does not mean that the pod is gone.
	err := c.SetStatus(t.Context(), request.Pod{Namespace: ns, Name: "p", UID: uid}, statusKey,
		strings.Repeat("x", 300<<10), nil)
	checkErr(t, "SetStatus of 300 KiB", err, nil, publish.ErrGone, publish.ErrRetry)

	cluster.DeletePod(t, ns, "p")
	err = c.SetStatus(t.Context(), request.Pod{Namespace: ns, Name: "p", UID: uid}, statusKey, "x", nil)
	checkErr(t, "SetStatus of a deleted pod", err, publish.ErrGone, publish.ErrGone, publish.ErrRetry)

	// A StatefulSet creates a pod of the same name.
	cluster.CreatePod(t, ns, "p", nil)
	err = c.SetStatus(t.Context(), request.Pod{Namespace: ns, Name: "p", UID: uid}, statusKey, "x", nil)
	checkErr(t, "SetStatus of a replaced pod", err, publish.ErrGone, publish.ErrGone, publish.ErrRetry)
	if code(err) != 422 {
		t.Errorf("the API server answers a different UID with %d, not 422: %v", code(err), err)
	}
	if got, ok := cluster.Annotation(t, ns, "p", statusKey); ok {
		t.Errorf("the new pod got the status %q of the old one", got)
	}
}

// testEdit checks that an edit begins again if another client has changed the pod meanwhile, that it gives up if that
// happens each time, and that nothing is written after an error.
func testEdit(t *testing.T, cluster *kubetest.Cluster) {
	config := cluster.RESTConfig()
	config.UserAgent = "multus/edit"
	c := clientOf(t, config)
	const ns, key = "edit", "list"
	ref := plan.Ref{Namespace: ns, Name: "p"}
	cluster.CreateNamespace(t, ns)
	uid := cluster.CreatePod(t, ns, "p", map[string]string{"keep": "me"})
	calls := 0
	appendOne := func(conflicts int) error {
		calls = 0
		return c.EditAnnotation(t.Context(), ref, key, func(pod *plan.Pod) (string, error) {
			if pod.UID != uid || pod.Ref != ref || pod.Annotations["keep"] != "me" {
				t.Errorf("%+v", pod)
			}
			if calls++; calls <= conflicts {
				cluster.Annotate(t, ns, "p", key, pod.Annotations[key]+"other,")
			}
			return pod.Annotations[key] + "mine,", nil
		})
	}
	if err := appendOne(1); err != nil || calls != 2 {
		t.Fatalf("%v after %d calls", err, calls)
	}
	if got, _ := cluster.Annotation(t, ns, "p", key); got != "other,mine," {
		t.Errorf("annotation %q", got)
	}
	if got := cluster.Requests(t, "multus/edit"); got["PATCH pods"] != 2 || got["GET pods"] != 2 {
		t.Errorf("requests: %v", got)
	}
	err := appendOne(updateTries)
	checkErr(t, "an edit with a conflict each time", err, publish.ErrRetry, publish.ErrGone)
	if calls != updateTries {
		t.Errorf("%d calls", calls)
	}
	before, _ := cluster.Annotation(t, ns, "p", key)
	refused := errors.New("refused")
	err = c.EditAnnotation(t.Context(), ref, key, func(*plan.Pod) (string, error) { return "x", refused })
	if got, _ := cluster.Annotation(t, ns, "p", key); err != refused || got != before { //nolint:errorlint // unchanged
		t.Errorf("%v, %q", err, got)
	}
	ref.Name = "none"
	checkErr(t, "an edit of no pod", appendOne(0), plan.ErrNotFound)
}

// testWithoutPatch uses the permissions of today's manifests for the thin plugin: get and update, but no patch.
func testWithoutPatch(t *testing.T, cluster *kubetest.Cluster) {
	const ns = "no-patch"
	cluster.CreateNamespace(t, ns)
	uid := cluster.CreatePod(t, ns, "p", map[string]string{"keep": "me <&>"})
	token := cluster.ServiceAccountToken(t, ns, "multus")
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "multus"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods", "pods/status"}, Verbs: []string{"get", "update"}},
		},
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "multus"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "multus"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "multus"}},
	}
	_, roleErr := cluster.Client().RbacV1().Roles(ns).Create(t.Context(), role, metav1.CreateOptions{})
	_, bindErr := cluster.Client().RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{})
	if err := errors.Join(roleErr, bindErr); err != nil {
		t.Fatal(err)
	}
	config, err := Load(Options{Kubeconfig: cluster.KubeconfigFor(t, cluster.Addr(), token), Version: "no-patch"})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	c := clientOf(t, config)
	c.Log(slog.New(slog.NewTextHandler(&log, nil)))
	pod := request.Pod{Namespace: ns, Name: "p", UID: uid}
	var last error
	eventually.Within(t, waitTimeout, "the API server has applied the role", func() bool {
		last = c.SetStatus(t.Context(), pod, statusKey, "one", nil)
		return !errors.Is(last, publish.ErrForbidden)
	})
	if last != nil {
		t.Fatal(last)
	}
	before, err := cluster.Client().CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetStatus(t.Context(), pod, statusKey, "two", nil); err != nil {
		t.Fatal(err)
	}
	testGatePUT(t, cluster, c, ns)
	after, err := cluster.Client().CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before.Annotations[statusKey] = "two"
	before.ResourceVersion, before.ManagedFields = after.ResourceVersion, after.ManagedFields
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("more than the annotation is changed (-before +after):\n%s", diff)
	}
	if n := strings.Count(log.String(), "GET and PUT"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, log.String())
	}
	err = c.SetStatus(t.Context(), pod, statusKey, strings.Repeat("x", 300<<10), nil)
	checkErr(t, "PUT of 300 KiB", err, publish.ErrRefused, publish.ErrRefused, publish.ErrGone, publish.ErrRetry)
	// With concurrent writers, each PUT that conflicts is repeated.
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			err := publish.ErrRetry
			for errors.Is(err, publish.ErrRetry) && ctx.Err() == nil {
				err = c.SetStatus(ctx, pod, fmt.Sprint("key-", i), "v", nil)
			}
			if err != nil {
				t.Errorf("conflict: %v", err)
			}
		})
	}
	wg.Wait()
	for i := range 4 {
		if got, _ := cluster.Annotation(t, ns, "p", fmt.Sprint("key-", i)); got != "v" {
			t.Errorf("key-%d is lost", i)
		}
	}
	cluster.DeletePod(t, ns, "p")
	checkErr(t, "PUT of a deleted pod", c.SetStatus(t.Context(), pod, statusKey, "x", nil), publish.ErrGone,
		publish.ErrGone, publish.ErrRetry)
	cluster.CreatePod(t, ns, "p", nil)
	for _, c := range []*Client{c, clientOf(t, config)} { // also as the first request
		checkErr(t, "PUT of a replaced pod", c.SetStatus(t.Context(), pod, statusKey, "x", nil), publish.ErrGone,
			publish.ErrGone, publish.ErrRetry)
	}
	if got, ok := cluster.Annotation(t, ns, "p", statusKey); ok {
		t.Errorf("the new pod got the status %q of the old one", got)
	}
}

func testEvents(t *testing.T, cluster *kubetest.Cluster) {
	c := clientOf(t, cluster.RESTConfig())
	const ns = "events"
	cluster.CreateNamespace(t, ns)
	long := strings.Repeat("p", 253)
	for _, name := range []string{"p", long} {
		uid := cluster.CreatePod(t, ns, name, nil)
		for range 2 {
			event := publish.Event{Type: publish.Warning, Reason: "NoNetworkFound", Message: strings.Repeat("m", 5000)}
			if err := c.Emit(t.Context(), request.Pod{Namespace: ns, Name: name, UID: uid}, event); err != nil {
				t.Fatal(err)
			}
		}
		got := cluster.Events(t, ns, name)
		if len(got) != 2 {
			t.Fatalf("%d events, want 2", len(got))
		}
		e := got[0]
		if e.Source.Component != "multus" || e.Count != 1 || string(e.InvolvedObject.UID) != uid ||
			e.Reason != "NoNetworkFound" ||
			e.Type != "Warning" || e.FirstTimestamp.IsZero() || len(e.Message) != maxEventMessage {
			t.Errorf("event = %+v", e)
		}
	}
	uid := cluster.CreatePod(t, ns, "failing", nil)
	for range 5 {
		event := publish.Event{Type: publish.Warning, Reason: "FailedAddingInterface", Message: "m", Seldom: true}
		if err := c.Emit(t.Context(), request.Pod{Namespace: ns, Name: "failing", UID: uid}, event); err != nil {
			t.Fatal(err)
		}
	}
	if got := cluster.Events(t, ns, "failing"); len(got) == 0 || len(got) > 2 { // two if the minute has ended
		t.Errorf("%d events of five failures that are the same", len(got))
	}
	// The event is in the namespace of the kubelet's events, whether or not the API server has the node.
	if err := c.EmitNode(t.Context(), "node-x",
		publish.Event{Type: publish.Warning, Reason: "R", Message: "m"}); err != nil {
		t.Fatal(err)
	}
	list, err := cluster.Client().CoreV1().Events("default").List(t.Context(),
		metav1.ListOptions{FieldSelector: "involvedObject.kind=Node"})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].InvolvedObject.Name != "node-x" ||
		list.Items[0].InvolvedObject.UID != "node-x" ||
		list.Items[0].Source.Component != "multus" || list.Items[0].Message != "m" {
		t.Errorf("events of nodes: %+v", list.Items)
	}
	about, err := c.PodEvents(t.Context(), plan.Ref{Namespace: ns, Name: "p"})
	if err != nil || len(about) != 2 || about[0].ID == about[1].ID || about[0].Reason != "NoNetworkFound" ||
		len(about[0].Message) != maxEventMessage {
		t.Errorf("events of the pod: %+v, %v", about, err)
	}
	err = c.Emit(t.Context(), request.Pod{Namespace: "none", Name: "p"}, publish.Event{Type: publish.Normal, Reason: "R"})
	checkErr(t, "Emit into no namespace", err, publish.ErrGone, publish.ErrGone, publish.ErrRetry)
}

func testNoRights(t *testing.T, cluster *kubetest.Cluster) {
	cluster.CreateNamespace(t, "rights")
	token := cluster.ServiceAccountToken(t, "rights", "no-role")
	config, err := Load(Options{Kubeconfig: cluster.KubeconfigFor(t, cluster.Addr(), token)})
	if err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, config)
	pod := request.Pod{Namespace: "rights", Name: "p"}
	_, podErr := c.Pod(t.Context(), plan.Ref{Namespace: "rights", Name: "p"})
	_, netErr := c.Network(t.Context(), plan.Ref{Namespace: "rights", Name: "p"})
	for want, err := range map[string]error{
		`verb "get" on resource "pods"`:                           podErr,
		`verb "get" on resource "network-attachment-definitions"`: netErr,
		`verb "patch" on resource "pods/status"`:                  c.SetStatus(t.Context(), pod, "k", "v", nil),
		`verb "create" on resource "events"`:                      c.Emit(t.Context(), pod, publish.Event{Reason: "R"}),
	} {
		var forbidden *ForbiddenError
		if !errors.As(err, &forbidden) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v is not about %s", err, want)
		}
	}
}

func testBadToken(t *testing.T, cluster *kubetest.Cluster) {
	config := cluster.RESTConfig()
	config.BearerToken = "expired"
	c := clientOf(t, config)
	_, err := c.Pod(t.Context(), aRef)
	checkErr(t, "Pod", err, plan.ErrUnavailable, plan.ErrUnavailable, plan.ErrNotFound)
	checkErr(t, "Emit", c.Emit(t.Context(), aPod, publish.Event{}), publish.ErrRetry, publish.ErrRetry, publish.ErrGone)
}

// testUnknownResource requests a resource that no CRD defines, as for definitions before their CRD is installed.
func testUnknownResource(t *testing.T, cluster *kubetest.Cluster) {
	c := clientOf(t, cluster.RESTConfig())
	missing := nadTarget(aRef)
	missing.resource = "unheard-of"
	_, err := c.lookup(t.Context(), c.nads, missing, "application/json")
	checkErr(t, "lookup", err, plan.ErrNotFound, plan.ErrNotFound)
	if !strings.Contains(err.Error(), "CustomResourceDefinition") {
		t.Errorf("error %q does not name the CRD", err)
	}
}

// run returns a running cache.
func run(tb testing.TB, config *rest.Config) *Cache {
	tb.Helper()
	c := NewCache(clientOf(tb, config), discard())
	start(tb, c)
	return c
}

func testCache(t *testing.T, cluster *kubetest.Cluster) {
	const ns = "cached"
	cluster.CreateNamespace(t, ns)
	cluster.CreateNetwork(t, ns, "x", confX, map[string]string{netsel.ResourceName: "r", "other": strings.Repeat("o", 1000)})
	config := cluster.RESTConfig()
	config.UserAgent = "multus/cache"
	c := run(t, config)
	// A cached definition is read live between the list and the watch, and so is one that the list did not have yet: the
	// API server answers the list from its memory, which may be older than the definition.
	x := plan.Ref{Namespace: ns, Name: "x"}
	eventually.Within(t, waitTimeout, "the watch works, and x is cached", func() bool { return isCached(c, x) })
	for range 3 {
		if def, err := c.Network(t.Context(), x); err != nil || def.Config != confX || def.ResourceName != "r" ||
			def.Ref != x {
			t.Errorf("Network = %+v, %v", def, err)
		}
	}
	const list, follow = "LIST network-attachment-definitions", "WATCH network-attachment-definitions"
	if got := cluster.Requests(t, "multus/cache"); got[list] != 1 || got[follow] != 1 || len(got) != 2 {
		t.Errorf("requests: %v, want one LIST, one WATCH and nothing else", got)
	}
	for i := range 20 {
		ref := plan.Ref{Namespace: ns, Name: fmt.Sprintf("new-%d", i)}
		cluster.CreateNetwork(t, ns, ref.Name, confX, nil)
		if _, err := c.Network(t.Context(), ref); err != nil { // behaviour B9
			t.Errorf("a definition created just now: %v", err)
		}
	}
	_, err := c.Network(t.Context(), plan.Ref{Namespace: ns, Name: "none"})
	checkErr(t, "Network", err, plan.ErrNotFound, plan.ErrNotFound, plan.ErrUnavailable)
	cluster.DeleteNetwork(t, ns, "x")
	eventually.Within(t, waitTimeout, "deletion is seen", func() bool {
		_, err := c.Network(t.Context(), x)
		return errors.Is(err, plan.ErrNotFound)
	})
}

// TestCacheSurvivesOutage tests annotated pods while the API server is unavailable ("What happens when something is
// missing" in docs/architecture.md).
func TestCacheSurvivesOutage(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Start(t)
	proxy := cluster.Proxy(t)
	cluster.CreateNetwork(t, "default", "x", confX, nil)
	cluster.CreateNetwork(t, "default", "y", confX, nil)
	config, err := Load(Options{Kubeconfig: proxy.Kubeconfig(t)})
	if err != nil {
		t.Fatal(err)
	}
	x, y := plan.Ref{Namespace: "default", Name: "x"}, plan.Ref{Namespace: "default", Name: "y"}
	c := run(t, config)
	eventually.Within(t, waitTimeout, "sync", c.Synced)
	proxy.Down()
	eventually.Within(t, waitTimeout, "the watch breaks", func() bool { return !isFollowing(c) })
	if def, err := c.Network(t.Context(), x); err != nil || def.Config != confX {
		t.Errorf("API server unavailable, known definition: %+v, %v", def, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = c.Network(ctx, plan.Ref{Namespace: "default", Name: "never-seen"})
	checkErr(t, "outage, unknown definition", err, plan.ErrUnavailable, plan.ErrUnavailable, plan.ErrNotFound)

	// Changes are visible as soon as the server is back, even if the watch still waits.
	cluster.DeleteNetwork(t, "default", "y")
	proxy.Up()
	c.mu.Lock()
	c.nextConfirm = time.Time{}
	c.mu.Unlock()
	_, err = c.Network(t.Context(), y)
	checkErr(t, "definition deleted during the outage", err, plan.ErrNotFound, plan.ErrNotFound)
	eventually.Within(t, waitTimeout, "the watch works again", func() bool { return isFollowing(c) })
	eventually.Within(t, waitTimeout, "the deletion of y is seen", func() bool { return c.Len() == 1 })
}
