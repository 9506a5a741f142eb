package cert

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

var names = []string{"multus-admission.kube-system.svc"}

// memory is a Store and Trust of several replicas.
type memory struct {
	mu      sync.Mutex
	data    map[string][]byte
	version int
	updates int
	trusted []byte
	fails   error
}

func (m *memory) Read(context.Context) (*Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Stored{Data: maps.Clone(m.data), Version: fmt.Sprint(m.version)}, m.fails
}

func (m *memory) Update(_ context.Context, s *Stored) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.Version != fmt.Sprint(m.version) {
		return ErrConflict
	}
	m.version++
	m.updates++
	m.data = map[string][]byte{}
	for key, value := range s.Data {
		if value != nil {
			m.data[key] = value
		}
	}
	return nil
}

func (m *memory) Ensure(_ context.Context, bundle []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trusted = bundle
	return m.fails
}

func (m *memory) manager(c clock.Clock) *Manager {
	return &Manager{Names: names, Store: m, Trust: m, Clock: c, Log: slog.New(slog.DiscardHandler)}
}

// call returns an error unless a client that trusts a bundle accepts what a replica serves.
func call(m *Manager, bundle []byte, now time.Time) error {
	c, err := m.Certificate(nil)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundle)
	_, err = c.Leaf.Verify(x509.VerifyOptions{DNSName: names[0], Roots: pool, CurrentTime: now})
	return err
}

func step(tb testing.TB, managers ...*Manager) {
	tb.Helper()
	for _, m := range managers {
		if err := m.Step(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestRenewal checks over three years that what two replicas serve is trusted: with the webhook configurations as they
// are, and as they were five minutes before, as for an API server that is late. It is renewed when two thirds of its
// lifetime are over. (behaviour S24, S25.)
func TestRenewal(t *testing.T) {
	t.Parallel()
	c := clocktesting.NewFakeClock(time.Now())
	m := &memory{}
	replicas := []*Manager{m.manager(c), m.manager(c)}
	step(t, replicas...)
	begin, seen, renewals := c.Now(), m.version, 0
	ends := replicas[0].Ends()
	if want := begin.Add(Lifetime); ends.Sub(want).Abs() > time.Second {
		t.Errorf("ends at %s, want %s", ends, want)
	}
	type known struct {
		at     time.Time
		bundle []byte
	}
	history := []known{{begin.Add(-time.Hour), m.trusted}}
	fine := 0
	for turn := 0; c.Since(begin) < 3*Lifetime; turn++ {
		pause := 12 * time.Hour
		if fine > 0 {
			pause, fine = time.Minute, fine-1
		}
		c.Step(pause)
		// One replica after the other, in turns: the other one still serves what it had.
		step(t, replicas[turn%2])
		if m.version != seen {
			seen, fine = m.version, 30
		}
		history = append(history, known{c.Now(), m.trusted})
		late := history[0].bundle
		for len(history) > 1 && c.Since(history[1].at) >= 5*time.Minute {
			history = history[1:]
			late = history[0].bundle
		}
		for i, r := range replicas {
			if err := errors.Join(call(r, m.trusted, c.Now()), call(r, late, c.Now())); err != nil {
				t.Fatalf("after %s: replica %d: %v", c.Since(begin), i, err)
			}
		}
		if is := replicas[0].Ends(); !is.Equal(ends) {
			left := ends.Sub(c.Now())
			if third := Lifetime / 3; left > third || left < third-24*time.Hour-Settle {
				t.Errorf("renewed when %s were left", left)
			}
			ends = is
			renewals++
		}
	}
	if renewals != 4 || len(authorities(m.trusted, c.Now())) > 3 {
		t.Errorf("%d renewals, %d authorities", renewals, len(authorities(m.trusted, c.Now())))
	}
	if bytes.Contains(m.data[keyCA], []byte("PRIVATE")) || m.data[keyNextKey] != nil {
		t.Error("the key of an authority is stored, or a next certificate is left")
	}
}

// TestReplicasStartTogether checks that replicas which start at the same time agree on one certificate. (behaviour
// S24.)
func TestReplicasStartTogether(t *testing.T) {
	t.Parallel()
	m := &memory{}
	managers := make([]*Manager, 4)
	var wg sync.WaitGroup
	for i := range managers {
		managers[i] = m.manager(clock.RealClock{})
		wg.Go(func() { step(t, managers[i]) })
	}
	wg.Wait()
	step(t, managers...)
	for i, one := range managers {
		if err := call(one, m.trusted, time.Now()); err != nil {
			t.Errorf("replica %d: %v", i, err)
		}
	}
	if m.updates != 1 {
		t.Errorf("%d certificates were stored", m.updates)
	}
}

// TestStoredDataIsInput checks what is made of stored data that cannot be used. (behaviour S24.)
func TestStoredDataIsInput(t *testing.T) {
	t.Parallel()
	now := time.Now()
	made := func(names ...string) map[string][]byte {
		p, ca, err := newPair(names, now)
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{keyCert: p.cert, keyKey: p.key, keyCA: ca}
	}
	good, next := made(names...), made(names...)
	with := func(data map[string][]byte, key string, value []byte) map[string][]byte {
		out := maps.Clone(data)
		out[key] = value
		return out
	}
	both := with(with(with(map[string][]byte{keyCert: []byte("x"), keyKey: good[keyKey]}, keyNextCert, next[keyCert]),
		keyNextKey, next[keyKey]), keyCA, append(good[keyCA], next[keyCA]...))
	for name, tc := range map[string]struct {
		data map[string][]byte
		at   time.Duration
		// keeps is the certificate that is served, or nil for a new one.
		keeps []byte
	}{
		"good":                     {good, 0, good[keyCert]},
		"none":                     {nil, 0, nil},
		"damaged":                  {with(good, keyCert, []byte("x")), 0, nil},
		"another key":              {with(good, keyKey, next[keyKey]), 0, nil},
		"another authority":        {with(good, keyCA, next[keyCA]), 0, nil},
		"another name":             {made("other.kube-system.svc"), 0, nil},
		"expired":                  {good, Lifetime + time.Hour, nil},
		"the next one can be used": {both, 0, next[keyCert]},
		"both expired":             {both, Lifetime + time.Hour, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &memory{data: tc.data}
			c := clocktesting.NewFakeClock(now.Add(tc.at))
			one := m.manager(c)
			step(t, one)
			if err := call(one, m.trusted, c.Now()); err != nil {
				t.Fatal(err)
			}
			if kept := bytes.Equal(m.data[keyCert], tc.keeps); kept != (tc.keeps != nil) {
				t.Errorf("kept: %v", kept)
			}
		})
	}
}

// TestUnavailable checks that a replica serves its certificate while the API server does not answer, and none before
// the API server trusts it.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	m := &memory{fails: errors.New("no answer")}
	one := m.manager(clock.RealClock{})
	if err := one.Step(t.Context()); err == nil || one.Ready() == nil || !one.Ends().IsZero() {
		t.Errorf("%v: it serves a certificate", err)
	}
	m.fails = nil
	step(t, one)
	m.fails = errors.New("no answer")
	if err := one.Step(t.Context()); err == nil || one.Ready() != nil {
		t.Errorf("%v, %v", err, one.Ready())
	}
}

// TestRun checks that the certificate is maintained in intervals, and sooner after an error.
func TestRun(t *testing.T) {
	t.Parallel()
	c := clocktesting.NewFakeClock(time.Now())
	m := &memory{fails: errors.New("no answer")}
	one := m.manager(c)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- one.Run(ctx) }()
	waiting := func() {
		for !c.HasWaiters() {
			time.Sleep(time.Millisecond)
		}
	}
	waiting()
	m.mu.Lock()
	m.fails = nil
	m.mu.Unlock()
	c.Step(retryEvery)
	waiting()
	if err := one.Ready(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestFiles checks that changed files are served, and that files that do not belong together leave the last
// certificate. (behaviour S26.)
func TestFiles(t *testing.T) {
	t.Parallel()
	f := &Files{Dir: t.TempDir(), Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)}
	if err := f.Read(); err == nil || f.Ready() == nil {
		t.Errorf("%v: no error without files", err)
	}
	write := func(key string, b []byte) {
		if err := os.WriteFile(filepath.Join(f.Dir, key), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serves := func(want *pair) {
		t.Helper()
		got, err := f.Certificate(nil)
		if err != nil || !got.Leaf.Equal(want.leaf) {
			t.Errorf("another certificate, %v", err)
		}
	}
	first, _, err := newPair(names, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := newPair(names, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	write(keyCert, first.cert)
	write(keyKey, first.key)
	if err := f.Read(); err != nil {
		t.Fatal(err)
	}
	serves(first)
	write(keyCert, second.cert)
	if err := f.Read(); err == nil {
		t.Error("no error for the key of another certificate")
	}
	serves(first)
	write(keyKey, second.key)
	if err := f.Read(); err != nil {
		t.Fatal(err)
	}
	serves(second)
}
