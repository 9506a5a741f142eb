// Package fault holds the errors that users read: each has a CNI code, names the object and its owner in
// its text, and says what to do next. It is not for internal errors, which stay plain wrapped errors
// until somebody knows what to advise. Every package may import it; it imports the CNI types only.
package fault

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// CNI error codes (CNI SPEC 1.1 §Error, and §STATUS for 50).
const (
	BadEnvironment = types.ErrInvalidEnvironmentVariables
	Decoding       = types.ErrDecodingFailure
	BadConfig      = types.ErrInvalidNetworkConfig
	TryAgain       = types.ErrTryAgainLater
	NotAvailable   = uint(50)
	Internal       = types.ErrInternal
)

// Unforeseen is what to do about an error that is no fault.
const Unforeseen = "look for the request in the logs of this node, and report it"

// Error is an error with a CNI code and advice. Err is the cause and may be nil.
type Error struct {
	Code uint
	// Msg says what could not be done, to what, and whose it is.
	Msg string
	// Next says what the reader can do about it; it ends up in the CNI error's details.
	Next string
	Err  error
}

// New makes an error without a cause.
func New(code uint, next, format string, args ...any) *Error {
	return &Error{Code: code, Next: next, Msg: fmt.Sprintf(format, args...)}
}

// Wrap makes an error around a cause; the cause's text follows the message.
func Wrap(err error, code uint, next, format string, args ...any) *Error {
	return &Error{Code: code, Next: next, Msg: fmt.Sprintf(format, args...), Err: err}
}

// Error returns message and cause in one line; the advice is in Next.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	return e.Msg + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// shown is how much of a container ID names a request; it is as much as crictl shows.
const shown = 13

// Request is how errors and events name a request: by the beginning of its container ID, which the runtime, kubelet and
// every log line of the request have in full. It is "" for a verb without a container.
func Request(containerID string) string {
	if containerID == "" {
		return ""
	}
	return "request " + containerID[:min(shown, len(containerID))]
}

// ForRequest is ToCNI in one line, with the request's name at the end of the details, once.
func ForRequest(err error, containerID string) *types.Error {
	ce := *ToCNI(err)
	ce.Msg, ce.Details = oneLine(ce.Msg), oneLine(ce.Details)
	if name := Request(containerID); !strings.HasSuffix(ce.Details, name) {
		ce.Details = joined(ce.Details, name)
	}
	return &ce
}

// Told is a text with the request's name at the end: an event's then is, word for word, the error of ForRequest.
func Told(text, containerID string) string { return joined(text, Request(containerID)) }

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// oneLine joins the lines of a text: joined errors come one to a line, and a message is read in a log.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// ToCNI turns any error into the error object that a runtime gets. The outermost text is kept whole; the
// code is that of the outermost fault, else of a CNI error found inside (a delegate's own code:
// behaviour D5, lost today), else 999.
func ToCNI(err error) *types.Error {
	// Only an error that is a CNI object as a whole passes unchanged.
	if ce, ok := err.(*types.Error); ok { //nolint:errorlint // not one that is wrapped
		return ce
	}
	if a, ok := err.(*answer); ok { //nolint:errorlint // as above
		return a.object
	}
	out := &types.Error{Code: Internal, Msg: oneLine(err.Error())}
	var f *Error
	var ce *types.Error
	switch {
	case errors.As(err, &f):
		out.Code, out.Details = f.Code, f.Next
		if f.Code == Internal && errors.As(f.Err, &ce) && ce.Code != 0 {
			out.Code = ce.Code
		}
	case errors.As(err, &ce) && ce.Code != 0:
		out.Code = ce.Code
	}
	return out
}
