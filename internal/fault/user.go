package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// retryAdvice is part of the advice for readers of a runtime's log. A user who calls a program directly has no runtime
// that retries.
const retryAdvice = "the runtime tries again"

// answer is the error object for a runtime, and its cause.
type answer struct {
	object *types.Error
	cause  error
}

// Answer returns an error with a CNI error object and its cause: ToCNI returns the object as it is, and ForUser uses
// the cause.
func Answer(object *types.Error, cause error) error { return &answer{object, cause} }

func (a *answer) Error() string { return a.object.Error() }

func (a *answer) Unwrap() []error { return []error{a.object, a.cause} }

// userError is an error with another text.
type userError struct {
	text string
	err  error
}

func (e *userError) Error() string { return e.text }

func (e *userError) Unwrap() error { return e.err }

// ForUser returns an error for a user who called a program directly: it includes the advice, but omits what is for a
// runtime and for the logs of a node.
func ForUser(err error) error {
	if a, ok := errors.AsType[*answer](err); ok {
		err = a.cause
	}
	ce := ToCNI(err)
	next := slices.DeleteFunc(strings.Split(ce.Details, "; "),
		func(s string) bool { return strings.Contains(s, retryAdvice) })
	text := joined(ce.Msg, strings.Join(next, "; "))
	if text == err.Error() {
		return err
	}
	return &userError{text, err}
}

// AsRoot adds the next step to the error of a program that lacks a permission because its user, uid, is not root.
func AsRoot(err error, uid int) error {
	if uid == 0 || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w; run it as root", err)
}
