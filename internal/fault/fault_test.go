package fault_test

import (
	"errors"
	"fmt"
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
	if e := fault.New(fault.BadConfig, "next", "100%% of %q", "x"); e.Error() != `100% of "x"` || e.Unwrap() != nil || e.Code != 7 {
		t.Errorf("%#v", e)
	}
}

// TestToCNI shows D4, D5 [quirk] and Q23: a delegate's code reaches the runtime, whatever was wrapped around it.
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
		{"D5 wrapped: its code, all the text", fmt.Errorf("plugin: %w", delegate), types.Error{Code: 101, Msg: "plugin: " + said}},
		{"D5 in a fault without a code of its own", fault.Wrap(fmt.Errorf("plugin: %w", delegate), fault.Internal, "next", "network x"), types.Error{Code: 101, Msg: "network x: plugin: " + said, Details: "next"}},
		{"a fault's own code wins", fault.Wrap(delegate, fault.TryAgain, "next", "network x"), types.Error{Code: 11, Msg: "network x: " + said, Details: "next"}},
		{"a fault inside", fmt.Errorf("outer: %w", fault.New(fault.BadConfig, "next", "inner")), types.Error{Code: 7, Msg: "outer: inner", Details: "next"}},
		{"the outermost of two faults", fault.Wrap(fault.New(fault.Decoding, "inner", "b"), fault.TryAgain, "outer", "a"), types.Error{Code: 11, Msg: "a: b", Details: "outer"}},
		{"joined", errors.Join(errors.New("a"), fault.New(fault.TryAgain, "next", "b")), types.Error{Code: 11, Msg: "a; b", Details: "next"}},
		{"a CNI error without a code", fmt.Errorf("plugin: %w", &types.Error{Msg: "x"}), types.Error{Code: 999, Msg: "plugin: x"}},
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

// TestForRequest: the request is named once, at the end of what the runtime shows; an event's words are the same.
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
		if told := fault.Told(tc.msg, tc.id); told != got.Error() {
			t.Errorf("told %q, the runtime got %q", told, got.Error())
		}
		if strings.Contains(before.Details, "request") {
			t.Errorf("the error itself was changed: %v", before)
		}
	}
}
