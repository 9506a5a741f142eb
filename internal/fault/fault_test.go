package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"multus/internal/fault"
)

func TestError(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	e := fault.Wrap(cause, fault.TryAgain, "next", "pod %s", "p")
	if e.Error() != "pod p: cause" || !errors.Is(e, cause) || e.Next != "next" || e.Code != 11 {
		t.Errorf("%#v", e)
	}
	if e := fault.New(fault.BadConfig, "next", "100%% of %q", "x"); e.Error() != `100% of "x"` || e.Unwrap() != nil ||
		e.Code != 7 {
		t.Errorf("%#v", e)
	}
}

// TestToCNI checks D4, D5 and Q23: a delegate's code reaches the runtime, whatever is wrapped around it.
func TestToCNI(t *testing.T) {
	t.Parallel()
	delegate := &types.Error{Code: 101, Msg: "no free address", Details: "pool x"}
	const said = "no free address; pool x"
	tests := []struct {
		rule string
		err  error
		want types.Error
	}{
		{"D4 anything", errors.New("x"), types.Error{Code: 999, Msg: "x"}},
		{"D5 a CNI error as a whole is passed on", delegate, *delegate},
		{
			"D5 wrapped: its code, the whole text", fmt.Errorf("plugin: %w", delegate),
			types.Error{Code: 101, Msg: "plugin: " + said},
		},
		{
			"D5 in a fault without a code of its own",
			fault.Wrap(fmt.Errorf("plugin: %w", delegate), fault.Internal, "next", "network x"),
			types.Error{Code: 101, Msg: "network x: plugin: " + said, Details: "next"},
		},
		{
			"a fault's own code wins", fault.Wrap(delegate, fault.TryAgain, "next", "network x"),
			types.Error{Code: 11, Msg: "network x: " + said, Details: "next"},
		},
		{
			"a fault inside", fmt.Errorf("outer: %w", fault.New(fault.BadConfig, "next", "inner")),
			types.Error{Code: 7, Msg: "outer: inner", Details: "next"},
		},
		{
			"the outermost of two faults", fault.Wrap(fault.New(fault.Decoding, "inner", "b"), fault.TryAgain, "outer", "a"),
			types.Error{Code: 11, Msg: "a: b", Details: "outer"},
		},
		{
			"joined", errors.Join(errors.New("a"), fault.New(fault.TryAgain, "next", "b")),
			types.Error{Code: 11, Msg: "a; b", Details: "next"},
		},
		{
			"a CNI error without a code", fmt.Errorf("plugin: %w", &types.Error{Msg: "x"}),
			types.Error{Code: 999, Msg: "plugin: x"},
		},
		{"no cause", fault.New(fault.Internal, "", "x"), types.Error{Code: 999, Msg: "x"}},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(&tc.want, fault.ToCNI(tc.err)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := fault.ToCNI(fault.ToCNI(tc.err)); !cmp.Equal(&tc.want, again) {
				t.Errorf("a second time: %v", again)
			}
		})
	}
}

// TestForRequest checks that the request is named once, at the end of what the runtime shows, and that an event has the
// same text.
func TestForRequest(t *testing.T) {
	t.Parallel()
	const id = "0123456789abcdef"
	for _, tc := range []struct {
		err           error
		id, want, msg string
	}{
		{fault.New(fault.TryAgain, "next", "a"), id, "next; request 0123456789abc", "a; next"},
		{errors.New("a"), id, "request 0123456789abc", "a"},
		{&types.Error{Code: 101, Msg: "a\nb", Details: "c\nd"}, id, "c; d; request 0123456789abc", "a; b; c; d"},
		{errors.New("a"), "short", "request short", "a"},
		{fault.New(fault.TryAgain, "next", "a"), "", "next", "a; next"},
	} {
		before := fault.ToCNI(tc.err)
		got := fault.ForRequest(before, tc.id)
		if got.Details != tc.want || got.Code != before.Code {
			t.Errorf("%v: %#v", tc.err, got)
		}
		if again := fault.ForRequest(got, tc.id); !cmp.Equal(got, again) {
			t.Errorf("a second time: %v", again)
		}
		if msg := fault.WithRequest(tc.msg, tc.id); msg != got.Error() {
			t.Errorf("the event has %q, the runtime gets %q", msg, got.Error())
		}
		if strings.Contains(before.Details, "request") {
			t.Errorf("the error itself was changed: %v", before)
		}
	}
}

// TestForUser checks that a user who calls a program directly gets the advice, and no text that is for runtimes or
// names requests, and that the cause is still in the chain.
func TestForUser(t *testing.T) {
	t.Parallel()
	denied := fmt.Errorf("open /x: %w", fs.ErrPermission)
	answered := func(err error) error {
		ce := fault.ForRequest(err, "0123456789abcdef")
		ce.Msg = "Multus: [a/b/uid]: " + ce.Msg
		return fault.Answer(ce, err)
	}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"no advice", denied, "open /x: permission denied"},
		{"a fault", fault.Wrap(denied, fault.Decoding, "correct it", "read"), "read: open /x: permission denied; correct it"},
		{
			"a fault inside", fmt.Errorf("/file: %w", fault.Wrap(denied, fault.Decoding, "correct it", "read")),
			"/file: read: open /x: permission denied; correct it",
		},
		{
			"a runtime's answer", answered(fault.Wrap(denied, fault.TryAgain, "nothing: the runtime tries again", "pod a/b")),
			"pod a/b: open /x: permission denied",
		},
		{
			"advice for both", answered(fault.Wrap(denied, fault.Internal,
				"nothing: the runtime tries again; look at the plugins", "pod a/b")),
			"pod a/b: open /x: permission denied; look at the plugins",
		},
		{"an answer without advice", answered(denied), "open /x: permission denied"},
		{"several", errors.Join(denied, errors.New("b")), "open /x: permission denied; b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := fault.ForUser(tc.err)
			if got.Error() != tc.want || !errors.Is(got, fs.ErrPermission) {
				t.Errorf("%q, want %q", got, tc.want)
			}
			if root := fault.AsRoot(got, 0); root.Error() != tc.want {
				t.Errorf("as root: %q", root)
			}
			if user := fault.AsRoot(got, 1000); user.Error() != tc.want+"; run it as root" ||
				!errors.Is(user, fs.ErrPermission) {
				t.Errorf("as another: %q", user)
			}
		})
	}
	if err := errors.New("x"); !errors.Is(fault.AsRoot(err, 1000), err) || fault.AsRoot(err, 1000).Error() != "x" ||
		fault.AsRoot(nil, 1000) != nil {
		t.Error("what is not denied needs no root")
	}
}

// TestAnswer checks that the runtime gets the object, whatever its cause.
func TestAnswer(t *testing.T) {
	t.Parallel()
	ce := &types.Error{Code: 11, Msg: "a", Details: "next; request x"}
	err := fault.Answer(ce, fault.New(fault.BadConfig, "other", "cause"))
	var found *types.Error
	if diff := cmp.Diff(ce, fault.ToCNI(err)); diff != "" || err.Error() != ce.Error() || !errors.As(err, &found) ||
		found != ce {
		t.Errorf("%v\n%s", err, diff)
	}
}
