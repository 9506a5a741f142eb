package admission

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"multus/internal/admission"
	host "multus/internal/host/admission"
	"multus/internal/lint"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/proc"
	"multus/internal/testutil/tool"
)

const (
	networksKey = "k8s.v1.cni.cncf.io/networks"
	statusKey   = "k8s.v1.cni.cncf.io/network-status"
	broken      = "{\n  \"type\": \"macvlan\",\n  \"mode\": \"brigde\"\n}"
	good        = `{"type": "macvlan", "master": "eth1"}`
)

// pod returns a pod with annotations.
func pod(namespace, name string, annotations map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"namespace": namespace, "name": name, "annotations": annotations},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "app", "image": "registry.example/app:1"}}},
	}}
}

// scrape returns the metrics of a replica.
func (r *replica) scrape(tb testing.TB) string {
	tb.Helper()
	return get(tb, "http://"+r.health+"/metrics")
}

func get(tb testing.TB, url string) string {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// TestWebhook checks on a real API server, with the permissions and the webhook configurations of the manifests, what
// reaches the webhook and what is answered. (behaviour S1, S10, S12, S20-S23.)
func TestWebhook(t *testing.T) {
	s := newSite(t)
	s.create(definition("default", "old", broken)) // before there is a webhook
	r := s.start(`{}`, nil)
	eventually.True(t, "ready", func() bool { return get(t, "http://"+r.health+"/readyz") == "ok\n" })
	s.point(port(r.webhook))
	s.await()
	client, warned := s.warned()
	t.Run("denied with line and column", func(t *testing.T) {
		_, err := s.try(client, definition("default", "bad", broken))
		const want = `admission webhook "definitions.admission.multus-cni.io" denied the request: ` +
			"network definition default/bad: invalid config\n" +
			"spec.config line 3, column 11: macvlan: mode \"brigde\" is unknown [value]; write bridge, private, vepa, passthru"
		if err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	})
	t.Run("valid", func(t *testing.T) {
		if _, err := s.try(client, definition("default", "good", good)); err != nil || warned.take() != "" {
			t.Error(err)
		}
	})
	t.Run("exempt", func(t *testing.T) { exempt(t, s) })
	t.Run("stored definitions can be labelled", func(t *testing.T) {
		patch := []byte(`{"metadata":{"labels":{"a":"b"}}}`)
		if _, err := client.Resource(definitions).Namespace("default").Patch(t.Context(), "old", types.MergePatchType, patch,
			metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("pods", func(t *testing.T) {
		_, err := s.try(client, pod("default", "bad", map[string]any{networksKey: "good,\n other/x/y"}))
		if err == nil || !strings.Contains(err.Error(), "annotations["+networksKey+"] line 2, column 2: ") {
			t.Errorf("%v", err)
		}
		_, err = s.try(client, pod("default", "unknown", map[string]any{networksKey: "none"}))
		if text := warned.take(); err != nil || !strings.Contains(text, "network definition default/none does not exist") {
			t.Errorf("%v %q", err, text)
		}
	})
	t.Run("a definition of this moment", func(t *testing.T) {
		for i := range 30 {
			name := fmt.Sprint("new-", i)
			if _, err := s.try(client, definition("default", name, good)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.try(client, pod("default", name, map[string]any{networksKey: name})); err != nil {
				t.Fatal(err)
			}
			if text := warned.take(); text != "" {
				t.Errorf("%d: %s", i, text)
			}
		}
	})
	t.Run("event of a stored definition", func(t *testing.T) {
		var found []corev1.Event
		eventually.True(t, "the event", func() bool {
			list, err := s.Client().CoreV1().Events("default").List(t.Context(),
				metav1.ListOptions{FieldSelector: "involvedObject.name=old"})
			if err != nil {
				t.Fatal(err)
			}
			found = list.Items
			return len(found) > 0
		})
		if e := found[0]; len(found) != 1 || e.InvolvedObject.Name != "old" || e.Reason != admission.InvalidConfiguration ||
			!strings.HasPrefix(e.Message, "spec.config line 3, column 11: ") || e.Source.Component != host.Name {
			t.Errorf("%+v", found)
		}
	})
	t.Run("metrics", func(t *testing.T) {
		text := r.scrape(t)
		// The other invalid one is in kube-system.
		for _, want := range []string{
			`multus_admission_requests_total{kind="definition",rule="value",verdict="deny"} 1`,
			`multus_admission_requests_total{kind="pod",rule="unknown-network",verdict="warn"} 1`,
			`multus_admission_requests_total{kind="pod",rule="",verdict="allow"} 30`,
			`multus_definitions{state="invalid"} 2`, `multus_definitions{state="valid"} 31`,
			"multus_admission_duration_seconds_count ",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s", want)
			}
		}
	})
	t.Run("no list of pods", func(t *testing.T) {
		requests := s.Requests(t, "multus/")
		for what, n := range requests {
			if strings.HasSuffix(what, " pods") && what != "WATCH pods" {
				t.Errorf("%d times %s", n, what)
			}
		}
		if requests["WATCH pods"] == 0 {
			t.Error("no watch of pods: this test shows nothing")
		}
		t.Logf("%v", requests)
	})
}

// exempt checks what does not reach the webhook.
func exempt(t *testing.T, s *site) {
	t.Helper()
	as := func(user string, groups ...string) dynamic.Interface {
		config := rest.CopyConfig(s.RESTConfig())
		config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:masters")}
		client, err := dynamic.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	if _, err := s.try(s.dyn, definition("kube-system", "bad", broken)); err != nil {
		t.Errorf("in kube-system: %v", err)
	}
	agent := as("system:serviceaccount:kube-system:multus")
	if _, err := s.try(agent, definition("default", "of-the-agent", broken)); err != nil {
		t.Errorf("by the node agents: %v", err)
	}
	if err := agent.Resource(definitions).Namespace("default").Delete(t.Context(), "of-the-agent",
		metav1.DeleteOptions{}); err != nil {
		t.Errorf("by the node agents: %v", err)
	}
	mirror := pod("default", "of-the-node", map[string]any{networksKey: "["})
	_, err := s.try(as("system:node:node-a", "system:nodes"), mirror)
	if err != nil && strings.Contains(err.Error(), "webhook") {
		t.Errorf("by a node: %v", err)
	}
	if _, err := s.try(s.dyn, pod("default", "without", map[string]any{"a": "b"})); err != nil {
		t.Errorf("without an annotation: %v", err)
	}
}

// undeniable are the files of the corpus whose definitions are not denied, with the reason.
var undeniable = map[string]string{
	"object-twice":          "the second object of a name is an update",
	"config-misspelt":       "the API server drops the key before a webhook sees it: the definition is empty, a warning",
	"object-api-version":    "clients find no such resource",
	"object-no-api-version": "clients find no such resource",
}

// TestCorpus checks that every broken definition of the corpus of lint is denied when it is applied, with line and
// column if the fault is in the configuration, and that no configuration of the manuals of plugins is. (behaviour S2,
// S4.)
func TestCorpus(t *testing.T) {
	s := newSite(t)
	r := s.start(`{"admission": {"rules": {"overlap": "deny"}}}`, nil)
	s.point(port(r.webhook))
	s.await()
	paths, err := filepath.Glob("../../internal/lint/testdata/corpus/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	denied, positions, byServer := 0, 0, 0
	for i, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rules := map[string]bool{}
		for _, f := range lint.Run([]lint.File{{Name: path, Data: data}}, lint.Options{}) {
			if f.Severity == lint.Error && strings.HasPrefix(f.Object, "NetworkAttachmentDefinition ") {
				rules[f.Rule] = true
			}
		}
		if len(rules) == 0 || undeniable[name] != "" {
			continue
		}
		namespace := fmt.Sprint("corpus-", i)
		s.CreateNamespace(t, namespace)
		refusals := applyAll(t, s, namespace, path)
		if len(refusals) == 0 {
			t.Errorf("%s is applied", name)
			continue
		}
		denied++
		text := strings.Join(refusals, "\n")
		if !strings.Contains(text, "denied the request") {
			byServer++
			t.Logf("%s: refused by the API server itself: %.100s", name, text)
			continue
		}
		if regexp.MustCompile(`spec\.config line \d+, column \d+: `).MatchString(text) {
			positions++
		} else {
			t.Logf("%s: without a position: %s", name, text)
		}
		for rule := range rules {
			if !strings.Contains(text, "["+rule+"]") {
				t.Errorf("%s: no [%s] in %s", name, rule, text)
			}
		}
	}
	t.Logf("%d of %d files have broken definitions that are denied; %d by the webhook with line and column, %d by the "+
		"API server itself", denied, len(paths), positions, byServer)
	if positions < 60 {
		t.Error("too few")
	}
	valid, err := filepath.Glob("../../internal/admission/testdata/valid/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	stored := 0
	for _, path := range valid {
		for _, u := range documents(t, path) {
			if _, err := s.try(s.dyn, u); err != nil {
				t.Errorf("%s: %v", u.GetName(), err)
			}
			stored++
		}
	}
	t.Logf("%d valid definitions are stored", stored)
}

// applyAll creates the definitions of a file in a namespace, as a client does that ignores errors, and returns why they
// are refused.
func applyAll(t *testing.T, s *site, namespace, path string) (refusals []string) {
	t.Helper()
	all, err := tryDocuments(path)
	if err != nil {
		return []string{err.Error()}
	}
	for _, u := range all {
		if u.GetKind() != "NetworkAttachmentDefinition" {
			continue
		}
		u.SetNamespace(namespace)
		u.SetAPIVersion("k8s.cni.cncf.io/v1")
		if _, err := s.try(s.dyn, u); err != nil {
			refusals = append(refusals, err.Error())
		}
	}
	return refusals
}

// TestInUse checks on a real API server the change and deletion of a definition that pods use, and that a namespace
// with used definitions is deleted. (behaviour S14-S18.)
func TestInUse(t *testing.T) {
	s := newSite(t)
	r := s.start(`{"admission": {"inUse": "deny"}}`, nil)
	s.point(port(r.webhook))
	s.await()
	s.CreateNamespace(t, "team")
	s.create(definition("team", "net", good))
	s.create(definition("team", "free", good))
	status := `[{"name":"cbr0","default":true},{"name":"team/net","interface":"net1"}]`
	for i := range 7 {
		name := fmt.Sprint("web-", i)
		s.create(pod("team", name, map[string]any{networksKey: "net"}))
		s.Annotate(t, "team", name, statusKey, status)
	}
	remove := func(name string) error {
		return s.dyn.Resource(definitions).Namespace("team").Delete(t.Context(), name, metav1.DeleteOptions{})
	}
	const want = "network definition team/net\nit is deleted while 7 pods are attached to it: team/web-0, team/web-1, " +
		"team/web-2, team/web-3, team/web-4 and 2 more; "
	eventually.True(t, "the pods are known", func() bool {
		err := s.dyn.Resource(definitions).Namespace("team").Delete(t.Context(), "net",
			metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), want)
	})
	patch := func(p string) error {
		_, err := s.dyn.Resource(definitions).Namespace("team").Patch(t.Context(), "net", types.MergePatchType, []byte(p),
			metav1.PatchOptions{})
		return err
	}
	if err := patch(`{"spec":{"config":"{\"type\":\"macvlan\"}"}}`); err == nil ||
		!strings.Contains(err.Error(), "spec.config changes while 7 pods are attached") {
		t.Errorf("%v", err)
	}
	if err := patch(`{"metadata":{"labels":{"a":"b"}}}`); err != nil {
		t.Error(err)
	}
	if err := remove("free"); err != nil {
		t.Error(err)
	}
	// Pods that have ended do not count, and neither do those that are deleted.
	for i := range 6 {
		name := fmt.Sprint("web-", i)
		if i%2 == 0 {
			s.DeletePod(t, "team", name)
			continue
		}
		if _, err := s.Client().CoreV1().Pods("team").Patch(t.Context(), name, types.MergePatchType,
			[]byte(`{"status":{"phase":"Succeeded"}}`), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	eventually.True(t, "one pod is left", func() bool {
		err := s.dyn.Resource(definitions).Namespace("team").Delete(t.Context(), "net",
			metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), "while 1 pod is attached to it: team/web-6;")
	})
	if o, err := s.dyn.Resource(definitions).Namespace("team").Get(t.Context(), "net", metav1.GetOptions{}); err != nil ||
		len(o.GetFinalizers()) > 0 {
		t.Errorf("%v, finalizers %q", err, o.GetFinalizers())
	}
	deleteNamespace(t, s, "team")
}

// deleteNamespace deletes a namespace with a real namespace controller, and fails the test if that takes ten seconds.
func deleteNamespace(t *testing.T, s *site, name string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(tool.Path(t, "kube-controller-manager"), "--kubeconfig="+s.Kubeconfig(t),
		"--leader-elect=false", "--secure-port=0", "--controllers=namespace-controller",
		"--kube-api-qps=200", "--kube-api-burst=200")
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p, err := proc.Start(filepath.Join(dir, "log"), cmd, proc.Here)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	// A namespace without anything shows that the controller runs.
	s.CreateNamespace(t, "empty")
	gone := func(name string, limit time.Duration) time.Duration {
		begin := time.Now()
		if err := s.Client().CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually.Within(t, limit, "the namespace is gone", func() bool {
			if p.Exited() {
				t.Fatalf("the controller ends: %s", p.Tail())
			}
			_, err := s.Client().CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
			return err != nil
		})
		return time.Since(begin)
	}
	gone("empty", eventually.Timeout)
	t.Logf("a namespace with a used definition is gone after %s", gone(name, 10*time.Second))
}

// TestDead checks that the API server stores pods and definitions while no replica answers. (behaviour S21.)
func TestDead(t *testing.T) {
	s := newSite(t)
	first, second := s.start(`{}`, nil), s.start(`{}`, nil)
	b := newBalancer(t, first.webhook, second.webhook)
	s.point(port(b.addr))
	s.await()
	first.stop()
	s.await() // the other one serves
	second.stop()
	begin := time.Now()
	for _, u := range []*unstructured.Unstructured{
		definition("default", "net", broken), pod("default", "web-0", map[string]any{networksKey: "net"}),
	} {
		if _, err := s.try(s.dyn, u); err != nil {
			t.Errorf("%s: %v", u.GetKind(), err)
		}
	}
	t.Logf("two objects are stored without the webhook after %s", time.Since(begin))
}

func contextFor(tb testing.TB) context.Context {
	tb.Helper()
	return context.WithoutCancel(tb.Context())
}
