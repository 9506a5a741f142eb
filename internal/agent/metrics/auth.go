package metrics

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// allowedFor and refusedFor are how long an answer about a token is used. While the API server does not answer, a
	// token that was allowed stays allowed for awayFor: the metrics are needed most then (behaviour F76).
	allowedFor = 2 * time.Minute
	refusedFor = 10 * time.Second
	awayFor    = time.Hour
	// maxAnswers is how many answers are kept.
	maxAnswers = 64
	// reviewsPerSecond and reviewBurst limit the questions to the API server, since everyone who reaches the port can
	// cause them.
	reviewsPerSecond = 5
	reviewBurst      = 10
	// maxToken is the longest token that is sent to the API server.
	maxToken = 16 << 10
	// certificateLife is how long the certificate is valid. Nothing can verify it, and each start makes another one.
	certificateLife = 10 * 365 * 24 * time.Hour
)

// Reviewer is implemented by the client of the API server.
type Reviewer interface {
	// MayGet reports whether a token is one of the cluster, and whether its user may get a path.
	MayGet(ctx context.Context, token, path string) (known, allowed bool, err error)
}

// guard serves requests of users who may get the path.
type guard struct {
	reviewer Reviewer
	log      *slog.Logger
	now      func() time.Time
	limiter  *rate.Limiter
	mu       sync.Mutex
	answers  map[[sha256.Size]byte]verdict
}

// verdict is the answer of the API server about a token: the HTTP status code of the refusal, or 0.
type verdict struct {
	code int
	at   time.Time
}

func newGuard(r Reviewer, log *slog.Logger) *guard {
	return &guard{
		reviewer: r, log: log, now: time.Now, limiter: rate.NewLimiter(reviewsPerSecond, reviewBurst),
		answers: map[[sha256.Size]byte]verdict{},
	}
}

// wrap returns a handler that refuses a request without a token that permits it.
func (g *guard) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code := http.StatusUnauthorized
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if strings.EqualFold(scheme, "Bearer") && token != "" && len(token) <= maxToken {
			code = g.judge(r.Context(), token, r.URL.Path)
		}
		switch code {
		case 0:
			h.ServeHTTP(w, r)
			return
		case http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		http.Error(w, http.StatusText(code), code)
	})
}

// judge returns 0, or the status code of the refusal.
func (g *guard) judge(ctx context.Context, token, path string) int {
	key := sha256.Sum256([]byte(path + "\x00" + token))
	now := g.now()
	g.mu.Lock()
	last, known := g.answers[key]
	g.mu.Unlock()
	if age := now.Sub(last.at); known && (age < refusedFor || last.code == 0 && age < allowedFor) {
		return last.code
	}
	code := http.StatusTooManyRequests
	if g.limiter.AllowN(now, 1) {
		isUser, allowed, err := g.reviewer.MayGet(ctx, token, path)
		switch {
		case err != nil:
			g.log.Warn("a request for metrics is not authorized: the API server does not review its token", "err", err)
			code = http.StatusServiceUnavailable
		case !isUser:
			code = http.StatusUnauthorized
		case !allowed:
			code = http.StatusForbidden
		default:
			code = 0
		}
		if err == nil {
			g.keep(key, verdict{code, now})
			return code
		}
	}
	if known && last.code == 0 && now.Sub(last.at) < awayFor {
		return 0
	}
	return code
}

// keep stores an answer. If there are too many, it drops the oldest refusal, or the oldest of all.
func (g *guard) keep(key [sha256.Size]byte, v verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers[key] = v
	if len(g.answers) <= maxAnswers {
		return
	}
	var oldest [sha256.Size]byte
	found := false
	for k, a := range g.answers {
		o := g.answers[oldest]
		if k != key && (!found || (a.code != 0) != (o.code != 0) && a.code != 0 ||
			(a.code != 0) == (o.code != 0) && a.at.Before(o.at)) {
			oldest, found = k, true
		}
	}
	delete(g.answers, oldest)
}

// selfSigned returns a certificate that is signed by itself, so that tokens are not sent in clear text.
func selfSigned(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key of the metrics port: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "multus-daemon"},
		DNSNames: []string{"multus-daemon"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate of the metrics port: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
