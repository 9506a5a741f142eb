package netsel

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestAppend checks that an element is appended in the form of the annotation, and that the others keep their bytes.
func TestAppend(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		value string
		e     Element
		want  string // or the beginning of the error
	}{
		"no annotation":          {"", Element{Name: "a"}, "a"},
		"empty list":             {" [ ] ", Element{Namespace: "ns", Name: "a", Interface: "x0"}, "ns/a@x0"},
		"a name with dots":       {"", Element{Name: "a.b"}, `[{"name":"a.b"}]`},
		"an interface with a @":  {"", Element{Name: "a", Interface: "x@y"}, `[{"name":"a","interface":"x@y"}]`},
		"comma form":             {"b, ns/c@x1", Element{Name: "a", Interface: "x0"}, "b, ns/c@x1,a@x0"},
		"not in the comma form":  {"b", Element{Name: "a.b"}, "error: the annotation is in the comma-separated form"},
		"two elements in one":    {"b", Element{Name: "a,c"}, "error: the annotation is in the comma-separated form"},
		"would become JSON":      {"b", Element{Name: `a"`}, "error: the annotation is in the comma-separated form"},
		"JSON":                   {`[{"name":"b"}]`, Element{Name: "a", Interface: "x0"}, `[{"name":"b"},{"name":"a","interface":"x0"}]`},
		"JSON with other layout": {"[\n { \"name\" : \"b\", \"x\":1.0 }\n]\n", Element{Name: "a"}, "[\n { \"name\" : \"b\", \"x\":1.0 },{\"name\":\"a\"}\n]\n"},
		"equal elements":         {`[{"name":"b"},{"name":"b"}]`, Element{Name: "b"}, `[{"name":"b"},{"name":"b"},{"name":"b"}]`},
		"brackets in a string":   {`[{"name":"b","cni-args":{"k":"]}"}}]`, Element{Name: "a"}, `[{"name":"b","cni-args":{"k":"]}"}},{"name":"a"}]`},
		"not valid":              {`[{"name":`, Element{Name: "a"}, "error: want a JSON array of objects"},
		"not valid, comma form":  {"a/b/c", Element{Name: "a"}, `error: element 1 ("a/b/c")`},
		"no valid MAC address":   {"[]", Element{Name: "a", MAC: "x"}, "error: element 1 (\"a\"): mac"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Append(tc.value, &tc.e)
			checkEdit(t, got, err, tc.want)
		})
	}
}

// TestRemove checks that one element is removed, and that the others keep their bytes.
func TestRemove(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		value string
		index int
		want  string // or the beginning of the error
	}{
		"the only one":             {"a", 0, ""},
		"the only one of JSON":     {` [ {"name":"a"} ] `, 0, ""},
		"first of the comma form":  {"a, b@x,c", 0, "b@x,c"},
		"second of the comma form": {"a, b@x,c", 1, "a,c"},
		"last of the comma form":   {"a, b@x,c", 2, "a, b@x"},
		"all but an empty one":     {"a,", 0, " "},
		"first":                    {`[ {"name":"a"}, {"name":"b","x":1.0} ]`, 0, `[ {"name":"b","x":1.0} ]`},
		"second":                   {"[{\"name\":\"a\"},\n{\"name\":\"b\"},\n{\"name\":\"c\"}\n]", 1, "[{\"name\":\"a\"},\n{\"name\":\"c\"}\n]"},
		"last":                     {`[{"name":"a"} , {"name":"b"}]`, 1, `[{"name":"a"}]`},
		"equal elements":           {`[{"name":"a"},{"name":"a"}]`, 1, `[{"name":"a"}]`},
		"no element":               {"", 0, "error: remove element 1 of 0"},
		"no such element":          {"a,b", 2, "error: remove element 3 of 2"},
		"negative":                 {"a,b", -1, "error: remove element 0 of 2"},
		"not valid":                {`[{}`, 0, "error: want a JSON array"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Remove(tc.value, tc.index)
			checkEdit(t, got, err, tc.want)
		})
	}
}

// checkEdit compares the result of an edit. want is the value, or "error: " and the beginning of the error.
func checkEdit(t *testing.T, got string, err error, want string) {
	t.Helper()
	if text, failed := strings.CutPrefix(want, "error: "); failed {
		if err == nil || !strings.HasPrefix(err.Error(), text) || got != "" {
			t.Errorf("%q, %v", got, err)
		}
	} else if err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// FuzzEdit checks that an edited annotation can be parsed, that it has one element more or less, that the other
// elements are equal, and that in JSON they keep their bytes. Removing what was appended restores the elements.
func FuzzEdit(f *testing.F) {
	for _, value := range []string{
		"", "a", "a,", ",", "a, ns/b@eth0", "[]", `[{"name":"a"}]`, `[ {"name":"a"} , {"name":"a","ips":["10.0.0.1"]}]` + "\n",
		`[{"name":"]"},{"name":"{\"","cni-args":{"k":[1]}}]`, "x@y@z", `"`, "\xff", " ",
	} {
		f.Add(value, "ns", "b", "net1", 1)
	}
	f.Add("[]", "", "a,b", `"`, 0)
	f.Fuzz(func(t *testing.T, value, namespace, name, ifName string, index int) {
		elements, err := Parse(value)
		if err != nil {
			return
		}
		e := Element{Namespace: namespace, Name: name, Interface: ifName}
		if added, err := Append(value, &e); err == nil {
			if got, err := Parse(added); err != nil || !reflect.DeepEqual(got, append(slices.Clone(elements), e)) {
				t.Fatalf("%q: %q: %+v, %v", value, added, got, err)
			}
			sameBytes(t, value, added, len(elements), -1)
			restored, err := Remove(added, len(elements))
			if got, parseErr := Parse(restored); err != nil || parseErr != nil || len(got)+len(elements) > 0 &&
				!reflect.DeepEqual(got, elements) {
				t.Fatalf("%q: %q: %q, %v", value, added, restored, err)
			}
		}
		if index < 0 || index >= len(elements) {
			return
		}
		removed, err := Remove(value, index)
		got, parseErr := Parse(removed)
		want := slices.Delete(slices.Clone(elements), index, index+1)
		if err != nil || parseErr != nil || len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q without %d: %q: %+v, %v", value, index, removed, got, err)
		}
		sameBytes(t, value, removed, len(elements), index)
	})
}

// sameBytes checks that the first n elements of a JSON annotation have the same bytes after an edit, except for the
// removed one.
func sameBytes(t *testing.T, before, after string, n, removed int) {
	t.Helper()
	if n == 0 || !isJSON(before) || after == "" {
		return
	}
	was, is := spans(before), spans(after)
	if removed >= 0 {
		was = slices.Delete(was, removed, removed+1)
	}
	for i := range was {
		if before[was[i][0]:was[i][1]] != after[is[i][0]:is[i][1]] {
			t.Errorf("element %d of %q and %q", i, before, after)
		}
	}
}
