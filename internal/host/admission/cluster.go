package admission

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/admission/cert"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/source/kube"
)

// manifests is the directory of the objects that this server needs and does not create.
const manifests = "deploy/components/admission"

// secretStore keeps the certificate in a secret. The secret is part of the manifests, so that the role does not have to
// allow the creation of secrets.
type secretStore struct {
	client *kube.Client
	ref    plan.Ref
}

// Read implements cert.Store.
func (s secretStore) Read(ctx context.Context) (*cert.Stored, error) {
	got, err := s.client.Secret(ctx, s.ref)
	if errors.Is(err, plan.ErrNotFound) {
		return nil, fmt.Errorf("%w; apply %s, which has it", err, manifests)
	}
	if err != nil {
		return nil, err
	}
	return &cert.Stored{Data: got.Data, Version: got.Version}, nil
}

// Update implements cert.Store.
func (s secretStore) Update(ctx context.Context, c *cert.Stored) error {
	return conflict(s.client.UpdateSecret(ctx, s.ref, &kube.Secret{Data: c.Data, Version: c.Version}))
}

// conflict returns an error that wraps cert.ErrConflict if the same call may succeed after another read.
func conflict(err error) error {
	if errors.Is(err, publish.ErrRetry) {
		return fmt.Errorf("%w: %w", cert.ErrConflict, err)
	}
	return err
}

// trust writes the authorities of the certificate into the webhook configurations of one name.
type trust struct {
	client *kube.Client
	name   string
}

// errNoWebhooks is returned while nothing makes the API server call this server.
var errNoWebhooks = errors.New("no webhook configuration exists")

// Ensure implements cert.Trust. One of the two configurations may be missing.
func (t trust) Ensure(ctx context.Context, bundle []byte) error {
	missing := 0
	for _, kind := range []string{kube.Validating, kube.Mutating} {
		w, err := t.client.Webhooks(ctx, kind, t.name)
		if errors.Is(err, plan.ErrNotFound) {
			missing++
			continue
		}
		if err == nil {
			err = conflict(t.client.SetBundle(ctx, w, bundle))
		}
		if err != nil {
			return err
		}
	}
	if missing == 2 {
		return fmt.Errorf("%w: the API server does not call this server; apply %s", errNoWebhooks, manifests)
	}
	return nil
}
