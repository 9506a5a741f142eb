// Package fault defines the errors that users read. Each has a CNI code, names the object and its owner in its text,
// and contains the next step. It is not for internal errors: those stay plain wrapped errors up to the place that can
// give advice. Every package may import it; it imports only the CNI types.
package fault

import (
	"errors"
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

// Unforeseen is the advice for an error that is not a fault.
const Unforeseen = "look for the request in the logs of this node, and report it"

// Error is an error with a CNI code and advice. It is made by an ID of the catalogue. Err is the cause and may be nil.
type Error struct {
	Code uint
	// Msg says what failed, for which object and for which owner.
	Msg string
	// Next says what the reader can do. It becomes the details of the CNI error.
	Next string
	Err  error
}

// Error returns message and cause in one line. The advice is in Next.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	return e.Msg + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// shown is how many characters of a container ID name a request, as many as crictl shows.
const shown = 13

// Request returns the name of a request in errors and events: the beginning of its container ID, which the runtime, the
// kubelet and every log line of the request contain in full. It returns "" for a verb without a container.
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

// WithRequest appends the request's name to a text. The text of an event is then equal to the error of ForRequest.
func WithRequest(text, containerID string) string { return joined(text, Request(containerID)) }

// WithTrace appends the ID of a trace to a text, unless it is "".
func WithTrace(text, id string) string {
	if id == "" {
		return text
	}
	return joined(text, "trace "+id)
}

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// oneLine joins the lines of a text: joined errors have one line each, and a message is read in a log.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// ToCNI converts any error to the error object for a runtime. The outermost text is kept completely. The code is that
// of the outermost fault. For an internal fault, and for an error without a fault, it is the code of a CNI error in the
// chain (a delegate's own code: behaviour D5, lost in today's Multus), else 999.
func ToCNI(err error) *types.Error {
	// An error passes unchanged only if it is itself a CNI error object.
	if ce, ok := err.(*types.Error); ok { //nolint:errorlint // not a wrapped one
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
