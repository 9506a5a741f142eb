package kube

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multus/internal/engine/plan"
)

// TestLists checks that all pages are read, pods as metadata and of one node only, and that a refusal names the role
// (behaviour A43, H1).
func TestLists(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		q := r.URL.Query()
		switch {
		case r.URL.Path == "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions" && q.Get("continue") == "":
			_, _ = io.WriteString(w, `{"metadata":{"continue":"more"},"items":[{"metadata":{"namespace":"a","name":"x","annotations":{"k8s.v1.cni.cncf.io/resourceName":"r"}},"spec":{"config":"{}"}}]}`)
		case r.URL.Path == "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions":
			_, _ = io.WriteString(w, `{"items":[{"metadata":{"namespace":"b","name":"y"}}]}`)
		case r.URL.Path == "/api/v1/pods" && q.Get("fieldSelector") == "spec.nodeName=node-1" &&
			r.Header.Get("Accept") == acceptMetadataList:
			_, _ = io.WriteString(w, `{"items":[{"metadata":{"namespace":"a","name":"p","uid":"u","annotations":{"k":"v"}}}]}`)
		default:
			answer(403, "", statusBody(403, "Forbidden", ""))(w, r)
		}
	})
	networks, err := c.Networks(t.Context())
	want := []plan.Definition{
		{Ref: plan.Ref{Namespace: "a", Name: "x"}, Config: "{}", ResourceName: "r"},
		{Ref: plan.Ref{Namespace: "b", Name: "y"}},
	}
	if diff := cmp.Diff(want, networks); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	pods, err := c.Pods(t.Context(), "node-1")
	if diff := cmp.Diff([]plan.Pod{
		{Ref: plan.Ref{Namespace: "a", Name: "p"}, UID: "u", Annotations: map[string]string{"k": "v"}},
	}, pods); diff != "" ||
		err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	_, err = c.Pods(t.Context(), "")
	var forbidden *ForbiddenError
	if !errors.As(err, &forbidden) || forbidden.Verb != "list" || forbidden.Resource != "pods" {
		t.Errorf("%v", err)
	}
}

// TestReview checks that each permission of the role is reviewed with one request, and that a cluster without the CRD
// is distinguished from one that does not answer (multus-cni#852, k8snetworkplumbingwg/helm-charts#2).
func TestReview(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/version":
			_, _ = io.WriteString(w, `{"gitVersion":"v1.36.3"}`)
		case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
			var in struct {
				Spec struct{ ResourceAttributes map[string]string }
			}
			_ = json.NewDecoder(r.Body).Decode(&in)
			_, _ = fmt.Fprintf(w, `{"status":{"allowed":%t}}`, in.Spec.ResourceAttributes["resource"] == "pods" &&
				in.Spec.ResourceAttributes["subresource"] == "status")
		default:
			answer(404, "", statusBody(404, "NotFound", ""))(w, r)
		}
	})
	if v, err := c.Version(t.Context()); v != "v1.36.3" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if has, err := c.HasDefinitions(t.Context()); has || err != nil {
		t.Errorf("%t, %v", has, err)
	}
	allowed := 0
	for _, a := range Needed() {
		ok, err := c.Allowed(t.Context(), a)
		if err != nil {
			t.Error(err)
		}
		if ok {
			allowed++
			if a.String() != "patch pods/status" {
				t.Errorf("allowed: %s", a)
			}
		}
	}
	if allowed != 1 {
		t.Errorf("%d allowed", allowed)
	}
	down := serve(t, reset)
	if _, err := down.Version(t.Context()); !errors.Is(err, plan.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if _, err := down.HasDefinitions(t.Context()); !errors.Is(err, plan.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

// TestNodeOfCredentials checks that the node is that of the pod to which the token is bound, and "" if the credentials
// name none.
func TestNodeOfCredentials(t *testing.T) {
	t.Parallel()
	token := func(payload string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".sig"
	}
	bound := token(`{"sub":"x","kubernetes.io":{"namespace":"kube-system","node":{"name":"node-a","uid":"1"},"pod":{"name":"p"}}}`)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(bound+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		config *Config
		want   string
	}{
		"bound":         {&Config{BearerToken: bound}, "node-a"},
		"file":          {&Config{BearerTokenFile: file}, "node-a"},
		"unbound":       {&Config{BearerToken: token(`{"sub":"x","kubernetes.io":{"namespace":"kube-system"}}`)}, ""},
		"other type":    {&Config{BearerToken: token(`{"kubernetes.io":{"node":"node-a"}}`)}, ""},
		"opaque":        {&Config{BearerToken: "opaque"}, ""},
		"no such file":  {&Config{BearerTokenFile: file + "x"}, ""},
		"no credential": {&Config{}, ""},
	} {
		if got := nodeOf(tc.config); got != tc.want {
			t.Errorf("%s: node %q, want %q", name, got, tc.want)
		}
	}
}

// TestExpiry checks the end and the account of a token. A token that is no JSON web token has no known end
// (multus-cni#852).
func TestExpiry(t *testing.T) {
	t.Parallel()
	end := time.Unix(1_700_000_000, 0)
	token := "e30." + base64.RawURLEncoding.EncodeToString(
		fmt.Appendf(nil, `{"exp":%d,"sub":"system:serviceaccount:kube-system:multus"}`, end.Unix())) + ".sig"
	for _, tc := range []struct {
		config *Config
		want   time.Time
		what   string
	}{
		{&Config{BearerToken: token}, end, "token"},
		{&Config{BearerToken: "opaque"}, time.Time{}, "token"},
		{&Config{}, time.Time{}, ""},
	} {
		got, what, err := Expiry(tc.config)
		if !got.Equal(tc.want) || what != tc.what || err != nil {
			t.Errorf("%v %q %v", got, what, err)
		}
		if who := Account(tc.config); (who == "system:serviceaccount:kube-system:multus") == tc.want.IsZero() {
			t.Errorf("%+v: %q", tc.config, who)
		}
	}
	if _, _, err := Expiry(&Config{BearerTokenFile: "/nowhere"}); err == nil {
		t.Error("a token that cannot be read")
	}
}
