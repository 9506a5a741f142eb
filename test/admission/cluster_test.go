package admission

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"multus/internal/engine/plan"
	host "multus/internal/host/admission"
	"multus/internal/testutil/eventually"
	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

const components = "../../deploy/components/"

var definitions = schema.GroupVersionResource{
	Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions",
}

// kinds are the resources of the objects in the manifests.
var kinds = map[string]schema.GroupVersionResource{
	"ServiceAccount":                 {Version: "v1", Resource: "serviceaccounts"},
	"Secret":                         {Version: "v1", Resource: "secrets"},
	"ClusterRole":                    {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
	"ClusterRoleBinding":             {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
	"Role":                           {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
	"RoleBinding":                    {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
	"ValidatingWebhookConfiguration": webhooks("validatingwebhookconfigurations"),
	"MutatingWebhookConfiguration":   webhooks("mutatingwebhookconfigurations"),
	"NetworkAttachmentDefinition":    definitions,
	"Pod":                            {Version: "v1", Resource: "pods"},
	"ConfigMap":                      {Version: "v1", Resource: "configmaps"},
	"DeviceClass":                    {Group: "resource.k8s.io", Version: "v1", Resource: "deviceclasses"},
	"ResourceClaimTemplate":          {Group: "resource.k8s.io", Version: "v1", Resource: "resourceclaimtemplates"},
	"Deployment":                     {Group: "apps", Version: "v1", Resource: "deployments"},
	"PodDisruptionBudget":            {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	"Service":                        {Version: "v1", Resource: "services"},
	"CustomResourceDefinition": {
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
	},
	"Issuer":      issuers,
	"Certificate": certificates,
}

func webhooks(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: resource}
}

// documents returns the objects of a YAML file.
func documents(tb testing.TB, path string) []*unstructured.Unstructured {
	tb.Helper()
	out, err := tryDocuments(path)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// tryDocuments returns the objects of a YAML file, also those of lists.
func tryDocuments(path string) ([]*unstructured.Unstructured, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for doc := range strings.SplitSeq("\n"+string(b), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		items, isList := u.Object["items"].([]any)
		for _, item := range items {
			if o, ok := item.(map[string]any); ok {
				out = append(out, &unstructured.Unstructured{Object: o})
			}
		}
		if len(u.Object) > 0 && !isList {
			out = append(out, u)
		}
	}
	return out, nil
}

// site is an API server with the objects of the component, whose webhooks are at addresses of this machine.
type site struct {
	*kubetest.Cluster
	tb  testing.TB
	dyn dynamic.Interface
	// kubeconfig is that of the service account of the component.
	kubeconfig string
}

// newSite starts an API server that authorizes by roles, with the objects of the component but the webhook
// configurations.
func newSite(tb testing.TB) *site {
	tb.Helper()
	s := newServer(tb)
	for _, file := range []string{"rbac.yaml", "secret.yaml"} {
		for _, u := range documents(tb, components+"admission/"+file) {
			if u.GetKind() != "ServiceAccount" { // it exists
				s.create(u)
			}
		}
	}
	return s
}

// newServer starts an API server that authorizes by roles, with nothing but the service account of the component.
func newServer(tb testing.TB) *site {
	tb.Helper()
	c := kubetest.StartWith(tb, kubetest.Options{RBAC: true})
	dyn, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		tb.Fatal(err)
	}
	s := &site{Cluster: c, tb: tb, dyn: dyn}
	token := c.ServiceAccountToken(tb, "kube-system", host.Name)
	s.kubeconfig = c.KubeconfigFor(tb, c.Addr(), token)
	return s
}

// create creates an object as the administrator, and fails the test if that is refused.
func (s *site) create(u *unstructured.Unstructured) {
	s.tb.Helper()
	if _, err := s.try(s.dyn, u); err != nil {
		s.tb.Fatalf("create %s %s: %v", u.GetKind(), u.GetName(), err)
	}
}

// try creates an object.
func (s *site) try(client dynamic.Interface, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), 30*time.Second)
	defer cancel()
	return client.Resource(kinds[u.GetKind()]).Namespace(u.GetNamespace()).Create(ctx, u, metav1.CreateOptions{})
}

// point creates the webhook configurations, and makes them call an address. With the same name, several replicas can be
// behind one address.
func (s *site) point(webhook string) {
	s.tb.Helper()
	for _, u := range documents(s.tb, components+"admission/webhooks.yaml") {
		redirect(s.tb, u, webhook)
		s.create(u)
	}
}

// redirect makes a webhook configuration call an address in the place of the service.
func redirect(tb testing.TB, u *unstructured.Unstructured, webhook string) {
	tb.Helper()
	hooks, _, err := unstructured.NestedSlice(u.Object, "webhooks")
	if err != nil {
		tb.Fatal(err)
	}
	for _, h := range hooks {
		hook := h.(map[string]any)
		path, _, _ := unstructured.NestedString(hook, "clientConfig", "service", "path")
		hook["clientConfig"] = map[string]any{"url": "https://" + webhook + path}
	}
	if err := unstructured.SetNestedSlice(u.Object, hooks, "webhooks"); err != nil {
		tb.Fatal(err)
	}
}

// replica is one running server.
type replica struct {
	webhook, health string
	stop            func()
}

// start starts a replica with a configuration, and the clock, or nil for the real one.
func (s *site) start(conf string, c clock.Clock, set ...func(*host.Options)) *replica {
	s.tb.Helper()
	file := filepath.Join(s.tb.TempDir(), "daemon-config.json")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.tb.Context()))
	started := make(chan [2]string, 1)
	o := host.Options{
		Config: file, Kubeconfig: s.kubeconfig, Listen: "127.0.0.1:0", Health: "127.0.0.1:0", Webhooks: host.Name,
		Secret: plan.Ref{Namespace: "kube-system", Name: host.Secret}, Names: []string{"localhost"}, Clock: c,
		Getenv:  func(string) string { return "" },
		Started: func(webhook, health net.Addr) { started <- [2]string{webhook.String(), health.String()} },
	}
	for _, f := range set {
		f(&o)
	}
	ended := make(chan error, 1)
	go func() { ended <- host.Run(ctx, o) }()
	r := &replica{}
	select {
	case at := <-started:
		r.webhook, r.health = at[0], at[1]
	case err := <-ended:
		s.tb.Fatalf("the server ends: %v", err)
	}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := eventually.Receive(s.tb, "the end of the server", ended); err != nil {
			s.tb.Errorf("the server ends: %v", err)
		}
	})
	s.tb.Cleanup(r.stop)
	return r
}

// port returns localhost with the port of an address: the certificate is for that name.
func port(addr string) string {
	_, p, _ := strings.Cut(addr, ":")
	return "localhost:" + p
}

// definition returns a definition with a configuration.
func definition(namespace, name, config string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"namespace": namespace, "name": name},
		"spec":     map[string]any{"config": config},
	}}
}

// await waits until the API server calls the webhook: a broken definition is denied.
func (s *site) await() {
	s.tb.Helper()
	eventually.True(s.tb, "the API server calls the webhook", func() bool {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), 30*time.Second)
		defer cancel()
		_, err := s.dyn.Resource(definitions).Namespace("default").Create(ctx, definition("default", "await", "{"),
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), "denied the request")
	})
}

// warnings collects the warnings of a client.
type warnings struct {
	mu   sync.Mutex
	text []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

// take returns the warnings since the last call.
func (w *warnings) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := strings.Join(w.text, "\n")
	w.text = nil
	return out
}

// warned returns a client that collects warnings.
func (s *site) warned() (dynamic.Interface, *warnings) {
	s.tb.Helper()
	w := &warnings{}
	config := rest.CopyConfig(s.RESTConfig())
	config.WarningHandler = w
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		s.tb.Fatal(err)
	}
	return client, w
}
