package cert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
)

const (
	// Settle is how long the webhook configurations trust the authority of the next certificate before it is used. It
	// leaves time for every API server to see the change, and for a replica that could not make it.
	Settle = 10 * time.Minute
	// checkEvery is the interval at which the stored certificate and the webhook configurations are read, and retryEvery
	// that after an error.
	checkEvery = time.Minute
	retryEvery = 5 * time.Second
	// attempts limits how often a step is repeated at once because another replica has changed the stored data.
	attempts = 5
)

// Stored is the stored data. An update with a version that is not the current one fails.
type Stored struct {
	Data    map[string][]byte
	Version string
}

// Store keeps the certificate for all replicas.
type Store interface {
	Read(ctx context.Context) (*Stored, error)
	// Update replaces the data of the version that was read. A nil value removes its key. The error wraps ErrConflict if
	// the data has another version now.
	Update(ctx context.Context, s *Stored) error
}

// ErrConflict is returned by a Store if another replica has changed the data.
var ErrConflict = errors.New("the certificate was changed by another replica")

// Trust makes the API server trust authorities.
type Trust interface {
	// Ensure makes all webhooks trust exactly the authorities of a bundle, in PEM. It changes nothing that is right.
	Ensure(ctx context.Context, bundle []byte) error
}

// Manager keeps a certificate of its own in a Store. Several replicas may use one store.
type Manager struct {
	// Names are the DNS names of the server.
	Names []string
	Store Store
	Trust Trust
	Clock clock.Clock
	Log   *slog.Logger

	serving atomic.Pointer[tls.Certificate]
	ends    atomic.Int64
}

// Certificate returns the certificate for a connection. It is for tls.Config.
func (m *Manager) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := m.serving.Load(); c != nil {
		return c, nil
	}
	return nil, errNone
}

var errNone = errors.New("there is no certificate yet")

// Ready returns an error while there is no certificate.
func (m *Manager) Ready() error {
	_, err := m.Certificate(nil)
	return err
}

// Ends returns when the certificate ends, or the zero time.
func (m *Manager) Ends() time.Time { return unixOrZero(m.ends.Load()) }

func unixOrZero(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0)
}

// Run keeps the certificate valid until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	last := ""
	for {
		wait := checkEvery
		if err := m.Step(ctx); err != nil && ctx.Err() == nil {
			wait = retryEvery
			if text := err.Error(); text != last {
				m.Log.Error("certificate of the webhook cannot be maintained", "err", err)
				last = text
			}
		} else {
			last = ""
		}
		timer := m.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
		}
	}
}

// Step reads the stored certificate, makes or renews it if necessary, makes the API server trust it, and serves it.
func (m *Manager) Step(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		err := m.step(ctx)
		if !errors.Is(err, ErrConflict) || attempt == attempts {
			return err
		}
	}
}

func (m *Manager) step(ctx context.Context) error {
	stored, err := m.Store.Read(ctx)
	if err != nil {
		return err
	}
	s, now := parseState(stored.Data, m.Names, m.Clock.Now()), m.Clock.Now()
	changed, err := s.prepare(m.Names, now)
	if err != nil {
		return err
	}
	if changed == "" && s.next != nil {
		// Each replica checks the trust in the next authority, so that none has to rely on another one.
		if err := m.Trust.Ensure(ctx, bundle(s.authorities)); err != nil {
			return err
		}
		changed = s.promote(now)
	}
	if changed != "" {
		if err := m.Store.Update(ctx, &Stored{Data: s.data(), Version: stored.Version}); err != nil {
			return err
		}
		m.Log.Info(changed, "ends", s.current.leaf.NotAfter) //nolint:sloglint // one of the constants below
	}
	// Its authority was trusted before it was promoted, by this replica or by another one.
	m.serving.Store(&s.current.tls)
	m.ends.Store(s.current.leaf.NotAfter.Unix())
	return m.Trust.Ensure(ctx, bundle(s.authorities))
}

// What a step does, for the log.
const (
	didMake    = "made a certificate of the webhook"
	didPrepare = "prepared the next certificate of the webhook; the current one is served until the API server trusts both"
	didPromote = "serving the next certificate of the webhook"
)

// state is the stored data, as far as it can be used.
type state struct {
	current, next *pair
	authorities   []*x509.Certificate
}

// parseState parses stored data. What cannot be used is left out: another program may have written it.
func parseState(data map[string][]byte, names []string, now time.Time) *state {
	s := &state{authorities: authorities(data[keyCA], now)}
	read := func(cert, key string) *pair {
		p, err := parsePair(data[cert], data[key])
		if err != nil || p.usable(names, s.authorities, now) != nil {
			return nil
		}
		return p
	}
	s.current, s.next = read(keyCert, keyKey), read(keyNextCert, keyNextKey)
	return s
}

// prepare makes the certificates that are missing. It returns what it did, or "".
func (s *state) prepare(names []string, now time.Time) (string, error) {
	switch {
	case s.current == nil && s.next != nil: // the replicas were stopped for months
		s.current, s.next = s.next, nil
		return didPromote, nil
	case s.current == nil, s.next == nil && !now.Before(s.current.renewable()):
		p, ca, err := newPair(names, now)
		if err != nil {
			return "", fmt.Errorf("make certificate: %w", err)
		}
		s.authorities = append(s.authorities, authorities(ca, now)...)
		if s.current == nil {
			s.current = p
			return didMake, nil
		}
		s.next = p
		return didPrepare, nil
	}
	return "", nil
}

// promote makes the next certificate the current one when it is trusted for long enough. The authority of the former
// one stays: another replica may still serve it.
func (s *state) promote(now time.Time) string {
	if now.Sub(s.next.created()) < Settle {
		return ""
	}
	s.current, s.next = s.next, nil
	return didPromote
}

// data returns the data to store. The keys of a next certificate that does not exist are removed.
func (s *state) data() map[string][]byte {
	out := map[string][]byte{
		keyCert: s.current.cert, keyKey: s.current.key, keyCA: bundle(s.authorities), keyNextCert: nil, keyNextKey: nil,
	}
	if s.next != nil {
		maps.Copy(out, map[string][]byte{keyNextCert: s.next.cert, keyNextKey: s.next.key})
	}
	return out
}
