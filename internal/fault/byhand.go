package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// triesAgain is advice for the reader of a runtime's log; who calls a program himself waits for no runtime.
const triesAgain = "the runtime tries again"

// answer is the error object that a runtime gets, and what it was made of.
type answer struct {
	object *types.Error
	cause  error
}

// Answer is a CNI error object that has not lost its cause: ToCNI returns the object as it is, and ByHand looks at the
// cause.
func Answer(object *types.Error, cause error) error { return &answer{object, cause} }

func (a *answer) Error() string { return a.object.Error() }

func (a *answer) Unwrap() []error { return []error{a.object, a.cause} }

// byHand is an error in other words.
type byHand struct {
	text string
	err  error
}

func (e *byHand) Error() string { return e.text }

func (e *byHand) Unwrap() error { return e.err }

// ByHand is an error as somebody reads it who called a program himself: with its advice, but without what is meant for
// a runtime and the logs of a node.
func ByHand(err error) error {
	if a, ok := errors.AsType[*answer](err); ok {
		err = a.cause
	}
	ce := ToCNI(err)
	next := slices.DeleteFunc(strings.Split(ce.Details, "; "),
		func(s string) bool { return strings.Contains(s, triesAgain) })
	text := joined(ce.Msg, strings.Join(next, "; "))
	if text == err.Error() {
		return err
	}
	return &byHand{text, err}
}

// AsRoot adds the next step to the error of a program that lacks a right because its user, uid, is not root.
func AsRoot(err error, uid int) error {
	if uid == 0 || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w; run it as root", err)
}
