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
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/clock"
)

const (
	// allowedFor and refusedFor are how long an answer about a token is used. While the API server does not answer, a
	// token that was allowed stays allowed for awayFor: the metrics are needed most then (behaviour F76).
	allowedFor = 2 * time.Minute
	refusedFor = 10 * time.Second
	awayFor    = time.Hour
	// maxAnswers is how many permissions and how many refusals are kept.
	maxAnswers = 64
	// reviewsPerSecond and reviewBurst limit the questions to the API server, since everyone who reaches the port can
	// cause them (behaviour F76).
	reviewsPerSecond = 5
	reviewBurst      = 10
	// logEvery is the time between two log lines about an API server that does not answer.
	logEvery = time.Minute
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
	clock    clock.PassiveClock
	// unknown limits the reviews of tokens, and again those of tokens with a permission that has to be renewed. So a flood
	// of unknown tokens does not prolong a permission, nor does it end one.
	unknown, again *rate.Limiter
	// allowed has the times of the permissions of tokens, and refused the HTTP status codes of refusals, by the hashes of
	// the tokens. They are two, so that refusals take no room of permissions.
	allowed, refused *cache.LRUExpireCache
	// logged limits the log lines about an API server that does not answer.
	logged rate.Sometimes
}

func newGuard(r Reviewer, c clock.PassiveClock, log *slog.Logger) *guard {
	return &guard{
		reviewer: r, log: log, clock: c,
		unknown: rate.NewLimiter(reviewsPerSecond, reviewBurst), again: rate.NewLimiter(reviewsPerSecond, reviewBurst),
		allowed: cache.NewLRUExpireCacheWithClock(maxAnswers, c), refused: cache.NewLRUExpireCacheWithClock(maxAnswers, c),
		logged: rate.Sometimes{First: 1, Interval: logEvery},
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
	refusal, _ := g.refused.Get(key)
	if code, ok := refusal.(int); ok {
		return code
	}
	limiter, now := g.unknown, g.clock.Now()
	permission, _ := g.allowed.Get(key)
	at, before := permission.(time.Time)
	if before {
		if now.Sub(at) < allowedFor {
			return 0
		}
		limiter = g.again
	}
	if !limiter.AllowN(now, 1) {
		return http.StatusTooManyRequests
	}
	code, err := g.review(ctx, token, path)
	switch {
	case err != nil && before:
		return 0
	case err != nil:
	case code == 0:
		g.allowed.Add(key, now, awayFor)
	default:
		g.allowed.Remove(key)
		g.refused.Add(key, code, refusedFor)
	}
	return code
}

// review asks the API server about a token. It returns 0, or the status code of the refusal.
func (g *guard) review(ctx context.Context, token, path string) (code int, err error) {
	known, allowed, err := g.reviewer.MayGet(ctx, token, path)
	switch {
	case err != nil:
		g.logged.Do(func() {
			g.log.Warn("the API server does not review the tokens of requests for metrics", "err", err)
		})
		return http.StatusServiceUnavailable, err
	case !known:
		return http.StatusUnauthorized, nil
	case !allowed:
		return http.StatusForbidden, nil
	}
	return 0, nil
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
