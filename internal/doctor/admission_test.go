package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"multus/internal/admission/cert"
	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

// issued is a certificate of the webhook, made as the webhook makes it.
type issued struct {
	stored *cert.Stored
	bundle []byte
	chain  []*x509.Certificate
}

func (i *issued) Read(context.Context) (*cert.Stored, error)     { return &cert.Stored{}, nil }
func (i *issued) Update(_ context.Context, s *cert.Stored) error { i.stored = s; return nil }
func (i *issued) Ensure(_ context.Context, b []byte) error       { i.bundle = b; return nil }

func issue(tb testing.TB, name string) *issued {
	tb.Helper()
	i := &issued{}
	m := &cert.Manager{
		Names: []string{name}, Store: i, Trust: i, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	}
	if err := m.Step(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	c, err := m.Certificate(nil)
	if err != nil {
		tb.Fatal(err)
	}
	i.chain = []*x509.Certificate{c.Leaf}
	return i
}

// TestAdmission checks what is found about the admission webhook, and that nothing is found where it works or is not
// installed. (behaviour S27.)
func TestAdmission(t *testing.T) {
	t.Parallel()
	const name = "multus-admission.kube-system.svc"
	good, other := issue(t, name), issue(t, name)
	configured := func(bundle []byte) map[string]*kube.Webhooks {
		return map[string]*kube.Webhooks{kube.Validating: {
			Names: []string{"pods"}, Services: []string{"kube-system/multus-admission"}, Bundles: [][]byte{bundle},
		}}
	}
	var later time.Duration
	refused := errors.New("connection refused")
	trusted := configured(good.bundle)
	for what, tc := range map[string]struct {
		webhooks map[string]*kube.Webhooks
		chain    []*x509.Certificate
		dial     error
		service  error
		later    time.Duration
		want     string
	}{
		"not installed":          {nil, nil, nil, nil, later, ""},
		"works":                  {trusted, good.chain, nil, nil, later, ""},
		"no caBundle":            {configured(nil), good.chain, nil, nil, later, "webhook pods has no caBundle"},
		"another authority":      {configured(other.bundle), good.chain, nil, nil, later, "unknown authority"},
		"both authorities":       {configured(append(other.bundle, good.bundle...)), good.chain, nil, nil, later, ""},
		"another name":           {trusted, issue(t, "other.svc").chain, nil, nil, later, name},
		"no answer":              {trusted, nil, refused, nil, later, "connection refused"},
		"no service":             {trusted, nil, nil, plan.ErrNotFound, later, "calls kube-system/multus-admission"},
		"ends soon":              {trusted, good.chain, nil, nil, cert.Lifetime - 24*time.Hour, "it ends at "},
		"not allowed to read it": {trusted, nil, nil, errors.New("forbidden"), later, "unchecked: "},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, "kubeadm")
			f.Now = time.Now().Add(tc.later)
			f.cluster.webhooks, f.cluster.service = tc.webhooks, tc.service
			f.Handshake = func(_ context.Context, addr, host string) ([]*x509.Certificate, error) {
				if addr != "10.96.0.7:443" || host != name {
					t.Errorf("%s at %s", host, addr)
				}
				return tc.chain, tc.dial
			}
			found, err := admissionCheck.Run(t.Context(), f.Node)
			got := ""
			if err != nil {
				got = fmt.Sprint("unchecked: ", err)
			}
			for _, x := range found {
				got += x.Message + "; " + x.Evidence
				if x.Severity != Warning || x.Fix == "" {
					t.Errorf("%+v", x)
				}
			}
			if !strings.Contains(got, tc.want) || (got == "") != (tc.want == "") {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}
