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

func made(code uint, next, msg string, cause error) *fault.Error {
	return &fault.Error{Code: code, Next: next, Msg: msg, Err: cause}
}

// TestCatalogue checks how the placeholders of an entry are filled.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for _, tc := range []struct {
		err        *fault.Error
		text, next string
		code       uint
	}{
		{
			fault.NoNamespace.Wrap(cause, "/run/netns/<x>"), "no net namespace /run/netns/<x> found: cause",
			"nothing, if the pod was deleted meanwhile; else look at the container runtime", fault.TryAgain,
		},
		{ // a placeholder in quotes is quoted
			fault.NoClusterNetwork.New("a\"b\n"),
			`CNI configuration "a\"b\n": at least one delegate/clusterNetwork must be specified`,
			"set clusterNetwork in the CNI configuration", fault.BadConfig,
		},
		{ // the advice has the arguments that the message leaves
			fault.NoDeviceLeft.New("n", "a/p", "vendor/nic", 1, "", 2, "vendor/nic"),
			"network n of pod a/p: no device of vendor/nic is left: the kubelet gave the pod 1",
			"request 2 or more of vendor/nic in the resources of the pod's containers, or in a ResourceClaim", fault.BadConfig,
		},
	} {
		if tc.err.Error() != tc.text || tc.err.Next != tc.next || tc.err.Code != tc.code {
			t.Errorf("got %q, %q, %d\nwant %q, %q, %d", tc.err, tc.err.Next, tc.err.Code, tc.text, tc.next, tc.code)
		}
	}
	if err := fault.NoNamespace.Wrap(cause, "x"); !errors.Is(err, cause) {
		t.Errorf("%v does not wrap its cause", err)
	}
	if long := fault.NoClusterNetwork.New(strings.Repeat("x", 10000)).Error(); len(long) > 400 {
		t.Errorf("an error has %d bytes", len(long))
	}
}

// TestEntries checks that no ID is without an entry.
func TestEntries(t *testing.T) {
	t.Parallel()
	for i, e := range fault.Catalogue() {
		if e.Code == 0 || e.Message == "" || e.Next == "" {
			t.Errorf("ID %d: %+v", i, e)
		}
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
			made(fault.Internal, "next", "network x", fmt.Errorf("plugin: %w", delegate)),
			types.Error{Code: 101, Msg: "network x: plugin: " + said, Details: "next"},
		},
		{
			"a fault's own code wins", made(fault.TryAgain, "next", "network x", delegate),
			types.Error{Code: 11, Msg: "network x: " + said, Details: "next"},
		},
		{
			"a fault inside", fmt.Errorf("outer: %w", made(fault.BadConfig, "next", "inner", nil)),
			types.Error{Code: 7, Msg: "outer: inner", Details: "next"},
		},
		{
			"the outermost of two faults", made(fault.TryAgain, "outer", "a", made(fault.Decoding, "inner", "b", nil)),
			types.Error{Code: 11, Msg: "a: b", Details: "outer"},
		},
		{
			"joined", errors.Join(errors.New("a"), made(fault.TryAgain, "next", "b", nil)),
			types.Error{Code: 11, Msg: "a; b", Details: "next"},
		},
		{
			"a CNI error without a code", fmt.Errorf("plugin: %w", &types.Error{Msg: "x"}),
			types.Error{Code: 999, Msg: "plugin: x"},
		},
		{"no cause", made(fault.Internal, "", "x", nil), types.Error{Code: 999, Msg: "x"}},
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
		{made(fault.TryAgain, "next", "a", nil), id, "next; request 0123456789abc", "a; next"},
		{errors.New("a"), id, "request 0123456789abc", "a"},
		{&types.Error{Code: 101, Msg: "a\nb", Details: "c\nd"}, id, "c; d; request 0123456789abc", "a; b; c; d"},
		{errors.New("a"), "short", "request short", "a"},
		{made(fault.TryAgain, "next", "a", nil), "", "next", "a; next"},
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
		{"a fault", made(fault.Decoding, "correct it", "read", denied), "read: open /x: permission denied; correct it"},
		{
			"a fault inside", fmt.Errorf("/file: %w", made(fault.Decoding, "correct it", "read", denied)),
			"/file: read: open /x: permission denied; correct it",
		},
		{
			"a runtime's answer", answered(made(fault.TryAgain, "nothing: the runtime tries again", "pod a/b", denied)),
			"pod a/b: open /x: permission denied",
		},
		{
			"advice for both",
			answered(made(fault.Internal, "nothing: the runtime tries again; look at the plugins", "pod a/b", denied)),
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
	err := fault.Answer(ce, made(fault.BadConfig, "other", "cause", nil))
	var found *types.Error
	if diff := cmp.Diff(ce, fault.ToCNI(err)); diff != "" || err.Error() != ce.Error() || !errors.As(err, &found) ||
		found != ce {
		t.Errorf("%v\n%s", err, diff)
	}
}
