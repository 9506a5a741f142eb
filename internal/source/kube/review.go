package kube

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"multus/internal/engine/plan"
)

// Access is a permission that Multus needs, as a role expresses it.
type Access struct {
	Verb, Group, Resource, Subresource string
	// Name is that of the only object, or "" for all.
	Name string
}

// String returns the verb and the resource as a role has them.
func (a Access) String() string {
	t := target{resource: a.Resource, subresource: a.Subresource}
	text := a.Verb + " " + t.roleResource()
	if a.Group != "" {
		text += "." + a.Group
	}
	if a.Name != "" {
		text += " " + a.Name
	}
	return text
}

// Needed returns the permissions that the daemon needs, which are those of the role in the manifests.
func Needed() []Access {
	nads := nadv1.SchemeGroupVersion.Group
	return []Access{
		{"get", nads, nadResource, "", ""},
		{"list", nads, nadResource, "", ""},
		{"watch", nads, nadResource, "", ""},
		{"get", "", "pods", "", ""},
		{"patch", "", "pods", "status", ""},
		{"create", "", "events", "", ""},
	}
}

// NeededForClaims returns the permissions that the daemon needs for devices of ResourceClaims.
func NeededForClaims() []Access {
	return []Access{
		{"list", resourceVersion.Group, "resourceslices", "", ""},
		{"watch", resourceVersion.Group, "resourceslices", "", ""},
		{"get", resourceVersion.Group, "resourceclaims", "", ""},
	}
}

// NeededForClaimStatus returns the permissions that the daemon needs to write the status of ResourceClaims for devices
// of drivers on its node. version is that of the API server: those before 1.36 do not check the permission for a driver
// (behaviour H18).
func NeededForClaimStatus(version string, drivers []string) []Access {
	out := []Access{{"patch", resourceVersion.Group, "resourceclaims", "status", ""}}
	var major, minor int
	if _, err := fmt.Sscanf(version, "v%d.%d", &major, &minor); err == nil && major == 1 && minor < granularStatus {
		return out
	}
	for _, driver := range drivers {
		out = append(out, Access{driverVerb, resourceVersion.Group, "resourceclaims", driverSubresource, driver})
	}
	return out
}

// NeededForHotPlug returns the permissions that the daemon needs to change and to repair the networks of running pods.
func NeededForHotPlug() []Access {
	return []Access{{"list", "", "pods", "", ""}, {"watch", "", "pods", "", ""}, {"get", "", "namespaces", "", ""}}
}

// Allowed reports whether the credentials have a permission in all namespaces (SelfSubjectAccessReview).
func (c *Client) Allowed(ctx context.Context, a Access) (bool, error) {
	review := map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": map[string]string{
			"verb": a.Verb, "group": a.Group, "resource": a.Resource, "subresource": a.Subresource, "name": a.Name,
		}},
	}
	body, err := json.Marshal(review)
	if err != nil {
		return false, fmt.Errorf("encode access review: %w", err)
	}
	var answer struct {
		Status struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	r := c.core.Post().AbsPath("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").SetHeader("Content-Type",
		"application/json").Body(body).MaxRetries(0)
	t := target{verb: "create", group: "authorization.k8s.io", resource: "selfsubjectaccessreviews"}
	if err := do(ctx, r, &answer, reviewTimeout); err != nil {
		return false, fmt.Errorf("check whether %s is allowed: %w", a, lookupError(t, err))
	}
	return answer.Status.Allowed, nil
}

// Version returns the version of the API server. It is the cheapest request, and needs no permission. The error wraps
// plan.ErrUnavailable if there was no answer.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	r := c.core.Get().AbsPath("/version").MaxRetries(0)
	if err := do(ctx, r, &v, reviewTimeout); err != nil {
		return "", fmt.Errorf("get version of the API server: %w", lookupError(target{verb: "get", resource: "version"}, err))
	}
	return v.GitVersion, nil
}

// HasDefinitions reports whether the API server serves network definitions, that is, whether their CRD is installed.
func (c *Client) HasDefinitions(ctx context.Context) (bool, error) {
	return c.serves(ctx, nadv1.SchemeGroupVersion, nadResource)
}

// HasClaims reports whether the API server serves ResourceClaims.
func (c *Client) HasClaims(ctx context.Context) (bool, error) {
	return c.serves(ctx, resourceVersion, "resourceclaims")
}

// HasSlices reports whether a driver publishes devices: for a node, or for no node in particular.
func (c *Client) HasSlices(ctx context.Context, driver, node string) (bool, error) {
	for _, selector := range []fields.Set{
		{"spec.driver": driver, "spec.nodeName": node}, {"spec.driver": driver, "spec.nodeName": ""},
	} {
		found, err := c.slices(ctx, selector)
		if err != nil || len(found) > 0 {
			return len(found) > 0, err
		}
	}
	return false, nil
}

func (c *Client) serves(ctx context.Context, gv schema.GroupVersion, resource string) (bool, error) {
	var v struct{}
	err := do(ctx, c.core.Get().AbsPath("/apis", gv.Group, gv.Version).MaxRetries(0), &v, reviewTimeout)
	err = lookupError(target{verb: "get", group: gv.Group, resource: resource}, err)
	if errors.Is(err, plan.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Expiry returns when the credentials of a configuration expire, and their kind. The time is zero if they do not
// expire, or if that is unknown.
func Expiry(c *Config) (time.Time, string, error) {
	token, cert, err := parseCredentials(c)
	switch {
	case err != nil:
		return time.Time{}, "", err
	case token.Exp != 0:
		return time.Unix(token.Exp, 0), "token", nil
	case cert != nil:
		return cert.NotAfter, "client certificate", nil
	case c.BearerToken != "" || c.BearerTokenFile != "":
		return time.Time{}, "token", nil
	}
	return time.Time{}, "", nil
}

// Account returns the user of the credentials, as role bindings name it, or "" if it is unknown. A service account is
// system:serviceaccount:NAMESPACE:NAME.
func Account(c *Config) string {
	token, cert, err := parseCredentials(c)
	switch {
	case err != nil:
		return ""
	case cert != nil:
		return cert.Subject.CommonName
	}
	return token.Sub
}

// nodeOf returns the node of the pod to which a service account token is bound, or "" if the credentials name none. It
// reads the token each time, because the kubelet replaces it.
func nodeOf(c *Config) string {
	token, _, err := parseCredentials(c)
	if err != nil {
		return ""
	}
	return token.Kubernetes.Node.Name
}

// tokenPayload is the part of the payload of a JSON web token that is read. The API server verifies the signature.
type tokenPayload struct {
	Exp        int64  `json:"exp"`
	Sub        string `json:"sub"`
	Kubernetes struct {
		Node struct {
			Name string `json:"name"`
		} `json:"node"`
	} `json:"kubernetes.io"`
}

// parseCredentials returns the credentials that are sent to the API server: the payload of the token if there is one,
// else the client certificate. The payload of a token that is no JSON web token is empty.
func parseCredentials(c *Config) (t tokenPayload, _ *x509.Certificate, err error) {
	token, cert := []byte(c.BearerToken), c.CertData
	switch {
	case c.BearerTokenFile != "":
		token, err = os.ReadFile(c.BearerTokenFile)
	case len(cert) == 0 && c.CertFile != "":
		cert, err = os.ReadFile(c.CertFile)
	}
	if err != nil {
		return t, nil, fmt.Errorf("read credentials: %w", err)
	}
	if len(token) > 0 {
		if parts := strings.Split(strings.TrimSpace(string(token)), "."); len(parts) == 3 {
			if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil && json.Unmarshal(b, &t) != nil {
				t = tokenPayload{}
			}
		}
		return t, nil, nil
	}
	block, _ := pem.Decode(cert)
	if block == nil {
		return t, nil, nil
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return t, nil, fmt.Errorf("read client certificate: %w", err)
	}
	return t, parsed, nil
}
