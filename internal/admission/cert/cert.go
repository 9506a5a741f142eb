// Package cert maintains the serving certificate of the admission server: it makes a certificate and the authority that
// signs it, stores them where all replicas read them, renews them, and makes the webhook configurations trust the
// authority before a replica uses it. It is a room of its own because its state outlives processes, and because each
// step of a renewal must be right for replicas that are at another step.
//
// It sends no requests by itself: Store and Trust are implemented at the process edge. It is no certificate authority
// for others: the key of an authority is not stored, so that it signs exactly one certificate. The process edge,
// internal/host/admission, may import it.
package cert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	// Lifetime is that of a certificate and of its authority.
	Lifetime = 365 * 24 * time.Hour
	// backdate is the time before its creation from which a certificate is valid, for clocks that are behind.
	backdate = time.Hour
	serial   = 1 << 62
)

// The keys of the stored data.
const (
	keyCert     = "tls.crt"
	keyKey      = "tls.key"
	keyNextCert = "next.crt"
	keyNextKey  = "next.key"
	keyCA       = "ca.crt"
)

// pair is a serving certificate with its key.
type pair struct {
	cert, key []byte // PEM
	leaf      *x509.Certificate
	tls       tls.Certificate
}

// newPair returns a certificate for the names, and the authority that signed it, in PEM.
func newPair(names []string, now time.Time) (p *pair, ca []byte, err error) {
	authority, caKey, err := newAuthority(names, now)
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	number, err := rand.Int(rand.Reader, big.NewInt(serial))
	if err != nil {
		return nil, nil, fmt.Errorf("make serial number: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(Lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, authority, key.Public(), caKey)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	p, err = parsePair(encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER))
	return p, encode("CERTIFICATE", authority.Raw), err
}

// newAuthority returns an authority that can sign certificates for the names only.
func newAuthority(names []string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of the authority: %w", err)
	}
	number, err := rand.Int(rand.Reader, big.NewInt(serial))
	if err != nil {
		return nil, nil, fmt.Errorf("make serial number: %w", err)
	}
	template := &x509.Certificate{
		// Each authority has a name of its own, so that a certificate is not tried with another one.
		SerialNumber: number, Subject: pkix.Name{CommonName: "multus-admission " + number.Text(36)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(Lifetime),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: names,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign authority: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("parse authority: %w", err)
	}
	return parsed, key, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// parsePair parses a certificate and its key.
func parsePair(cert, key []byte) (*pair, error) {
	t, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	return &pair{cert: cert, key: key, leaf: t.Leaf, tls: t}, nil
}

// errUnusable is returned for a certificate that does not serve the names now.
var errUnusable = errors.New("certificate cannot be used")

// usable returns an error unless the certificate is valid now, for the names, and signed by one of the authorities.
func (p *pair) usable(names []string, authorities []*x509.Certificate, now time.Time) error {
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a)
	}
	for _, name := range names {
		if _, err := p.leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now}); err != nil {
			return fmt.Errorf("%w: %w", errUnusable, err)
		}
	}
	return nil
}

// created returns when the certificate was made.
func (p *pair) created() time.Time { return p.leaf.NotBefore.Add(backdate) }

// renewable returns when the certificate is to be renewed: when two thirds of its lifetime are over.
func (p *pair) renewable() time.Time {
	return p.leaf.NotAfter.Add(-p.leaf.NotAfter.Sub(p.created()) / 3)
}

// authorities returns the authorities of a bundle that are valid now, without repetitions.
func authorities(bundle []byte, now time.Time) []*x509.Certificate {
	var out []*x509.Certificate
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || now.After(c.NotAfter) {
			continue
		}
		known := false
		for _, other := range out {
			known = known || bytes.Equal(other.Raw, c.Raw)
		}
		if !known {
			out = append(out, c)
		}
	}
	return out
}

// bundle returns authorities in PEM.
func bundle(authorities []*x509.Certificate) []byte {
	var out []byte
	for _, a := range authorities {
		out = append(out, encode("CERTIFICATE", a.Raw)...)
	}
	return out
}
