package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"golang.org/x/net/http2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
)

// ForbiddenError is returned when the API server accepts the credentials but denies the request. A retry does not help:
// the role has to be changed.
type ForbiddenError struct {
	Verb      string
	Group     string // empty for the core group
	Resource  string // with the subresource, as in a role: pods/status
	Namespace string // empty: in all namespaces
	Err       error
}

// Error names the verb and the resource that the role lacks.
func (e *ForbiddenError) Error() string {
	where := "in all namespaces"
	if e.Namespace != "" {
		where = fmt.Sprintf("in namespace %q", e.Namespace)
	}
	return fmt.Sprintf("not allowed: the role of Multus lacks verb %q on resource %q of API group %q %s: %v",
		e.Verb, e.Resource, e.Group, where, e.Err)
}

// Is reports whether target is publish.ErrForbidden.
func (e *ForbiddenError) Is(target error) bool { return target == publish.ErrForbidden }

// Unwrap returns the error of the API server.
func (e *ForbiddenError) Unwrap() error { return e.Err }

// errThrottled marks the error of the client's own rate limit, which has no type.
var errThrottled = errors.New("client rate limit")

// code returns the HTTP status of an answer of the API server, or 0 if there was no answer.
func code(err error) int {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return int(status.Status().Code)
	}
	return 0
}

// overloaded reports whether an HTTP status means that the request may be retried at once, with back-off.
func overloaded(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// unreachable reports whether there was no answer: the connection was refused or broken, the name did not resolve, or a
// time limit was reached. A certificate that cannot be verified does not count, because a retry does not help.
func unreachable(err error) bool {
	if err == nil || code(err) != 0 {
		return false
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errThrottled) {
		return true
	}
	var opErr *net.OpError
	var dnsErr *net.DNSError
	var netErr net.Error
	var streamErr http2.StreamError // a reset stream on a connection that stays open
	var goAway http2.GoAwayError    //nolint:staticcheck // client-go sends this type
	switch {
	case errors.As(err, &opErr), errors.As(err, &dnsErr), errors.As(err, &streamErr), errors.As(err, &goAway):
		return true
	case errors.As(err, &netErr) && netErr.Timeout():
		return true
	}
	// HTTP/2 reports a lost connection by the text of the error only. apimachinery recognises the texts.
	return utilnet.IsHTTP2ConnectionLost(err) || utilnet.IsProbableEOF(err) || utilnet.IsConnectionReset(err)
}

// transient reports whether the same request may succeed later. That includes 401: the token has expired, and its file
// will be renewed.
func transient(err error) bool {
	status := code(err)
	return unreachable(err) || overloaded(status) ||
		status == http.StatusUnauthorized || status == http.StatusRequestTimeout
}

// forbidden adds the missing permission to a 403.
func forbidden(t target, err error) error {
	return &ForbiddenError{Verb: t.verb, Group: t.group, Resource: t.roleResource(), Namespace: t.namespace, Err: err}
}

// lookupError maps the error of a read to the sentinel errors of package plan.
func lookupError(t target, err error) error {
	switch status := code(err); {
	case status == http.StatusNotFound && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		// The API server does not serve the resource. For definitions this means that the CRD is missing.
		return fmt.Errorf("%w: the API server does not serve the resource %s; is the CustomResourceDefinition installed?",
			plan.ErrNotFound, t.resourceGroup())
	case status == http.StatusNotFound:
		return plan.ErrNotFound
	case status == http.StatusForbidden:
		return forbidden(t, err)
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%w: the API server does not accept the credentials (expired?): %w", plan.ErrUnavailable, err)
	case transient(err):
		return fmt.Errorf("%w: %w", plan.ErrUnavailable, err)
	}
	return err
}
