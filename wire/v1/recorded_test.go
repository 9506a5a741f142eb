package wirev1_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/rawjson"
	"multus/internal/testutil/wire"
	wirev1 "multus/wire/v1"
)

// message decodes a recorded message and returns the value of the engine.
func message[M any, V any](t *testing.T, name string, to func(*M) *V) *V {
	t.Helper()
	m := new(M)
	if err := json.Unmarshal(wire.Message(t, name), m); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return to(m)
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := rawjson.Marshal(v) // as the daemon writes its answers
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// same returns a function that encodes a message which has no value of the engine.
func same[M any](t *testing.T) func(string) []byte {
	return func(name string) []byte {
		t.Helper()
		return marshal(t, message(t, name, func(m *M) *M { return m }))
	}
}

// changes returns a function that converts a message, and fails the test after an error.
func changes(t *testing.T) func(*wirev1.Changes) *plan.Changes {
	return func(m *wirev1.Changes) *plan.Changes {
		t.Helper()
		c, err := m.ToChanges()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// TestRecorded checks that each recorded message of an earlier version is decoded completely: the value that it stands
// for is encoded as the same message, key by key and in the same order.
func TestRecorded(t *testing.T) {
	t.Parallel()
	asRequest := func(name string) []byte {
		return wirev1.FromRequest(message(t, name, (*wirev1.Request).ToRequest)).AppendJSON(nil)
	}
	asPlan := func(name string) []byte {
		return marshal(t, wirev1.FromPlan(message(t, name, (*wirev1.Plan).ToPlan)))
	}
	asReport := func(name string) []byte {
		return wirev1.FromReport(message(t, name, (*wirev1.Report).ToReport)).AppendJSON(nil)
	}
	for name, encode := range map[string]func(string) []byte{
		"plan-request.json": asRequest, "plan-request-full.json": asRequest, "plan-request-gc.json": asRequest,
		"plan-answer.json": asPlan, "plan-answer-full.json": asPlan,
		"report-add.json": asReport, "report-failure.json": asReport, "report-del.json": asReport,
		"report-full.json": asReport,
		"status.json":      same[wirev1.StatusResult](t), "status-full.json": same[wirev1.StatusResult](t),
		"work.json": same[wirev1.Work](t), "work-done.json": same[wirev1.WorkDone](t),
		"work-observe.json": same[wirev1.Work](t), "observed-answer.json": same[wirev1.ObservedAnswer](t),
		"observed-full.json": func(name string) []byte {
			m := message(t, name, func(m *wirev1.Observed) *wirev1.Observed { return m })
			for i := range m.Sandboxes {
				m.Sandboxes[i] = wirev1.FromObservation(m.Sandboxes[i].ToObservation())
			}
			return marshal(t, m)
		},
		"missing-full.json":  same[wirev1.MissingPods](t),
		"work-delegate.json": same[wirev1.Work](t), "work-done-delegated.json": same[wirev1.WorkDone](t),
		"diff-request-delegate.json": same[wirev1.DiffRequest](t),
		"diff-request-full.json": func(name string) []byte {
			req, has := message(t, name, func(m *wirev1.DiffRequest) *wirev1.DiffRequest { return m }).ToDiff()
			return marshal(t, &wirev1.DiffRequest{Request: wirev1.FromRequest(req), Attached: wirev1.FromAttached(has)})
		},
		"changes-full.json": func(name string) []byte {
			return marshal(t, wirev1.FromChanges(message(t, name, changes(t)), fault.ToCNI))
		},
	} {
		want, got := bytes.TrimSpace(wire.Message(t, name)), encode(name)
		if d := cmp.Diff(wire.Decode(t, want), wire.Decode(t, got)); d != "" {
			t.Errorf("%s (-recorded +encoded):\n%s", name, d)
		} else if !bytes.Equal(want, got) {
			t.Errorf("%s: another order or form:\n%s\n%s", name, want, got)
		}
	}
}

// notSent are the fields of the engine's types that have no key, because they have no meaning in the other process.
var notSent = map[reflect.Type][]string{
	reflect.TypeFor[plan.Attachment](): {"Source"},
	reflect.TypeFor[publish.Report]():  {"Needed", "TraceID"},
	reflect.TypeFor[plan.Attached]():   {"Lost"},
	reflect.TypeFor[request.Request](): {"TraceParent"},
	reflect.TypeFor[publish.Event]():   {"TraceID"},
	// Sent as Observed.Pending.
	reflect.TypeFor[publish.Observation](): {"Pending"},
}

// TestEveryFieldIsSent checks that the recorded messages with all keys set every field of the engine's types, so that
// TestRecorded misses none. A new field fails here until it is sent and recorded, or is in notSent.
func TestEveryFieldIsSent(t *testing.T) {
	t.Parallel()
	for _, v := range []any{
		message(t, "plan-request-full.json", (*wirev1.Request).ToRequest),
		message(t, "plan-answer-full.json", (*wirev1.Plan).ToPlan),
		message(t, "report-full.json", (*wirev1.Report).ToReport),
		message(t, "diff-request-full.json", func(m *wirev1.DiffRequest) *[]plan.Attached {
			_, has := m.ToDiff()
			return &has
		}),
		message(t, "observed-full.json", func(m *wirev1.Observed) *publish.Observation {
			return m.Sandboxes[0].ToObservation()
		}),
	} {
		set := map[reflect.Type]map[string]bool{}
		visit(reflect.ValueOf(v), set)
		for typ, fields := range set {
			for name, isSet := range fields {
				if isSet == slices.Contains(notSent[typ], name) {
					t.Errorf("%s: field %s is set: %t", typ, name, isSet)
				}
			}
		}
	}
}

// visit records which fields of the engine's structs are set, in any value of the type.
func visit(v reflect.Value, set map[reflect.Type]map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			visit(v.Elem(), set)
		}
	case reflect.Slice:
		for i := range v.Len() {
			visit(v.Index(i), set)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !field.IsExported() {
				continue
			}
			if set[v.Type()] == nil {
				set[v.Type()] = map[string]bool{}
			}
			set[v.Type()][field.Name] = set[v.Type()][field.Name] || !v.Field(i).IsZero()
			if !slices.Contains(notSent[v.Type()], field.Name) {
				visit(v.Field(i), set)
			}
		}
	}
}
