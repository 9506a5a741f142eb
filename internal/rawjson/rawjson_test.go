package rawjson

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

var documents = []string{
	`{}`, `[]`, ` { } `, `{"a":1}`, `{"a":1,"b":[1,2,{"c":"}"}],"c":"\"]}","d":null}`, "\t{ \"a\" :\n1 , \"b\":{ }\r}\n",
	`{"a":-1.5e3,"b":true,"c":false}`, `{"":"","\u0041":"\ud83d\ude00"}`, `{"a":1,"a":2}`,
	`[1,"a",[2],{"b":[]},null,true]`, `[ 1 , [ ] , "," ]`,
	`"text"`, `1`, `null`, `{"é":"ü","bad":"` + "\xff" + `"}`, `{"a":"\\"}`, `{"a":"\\\""}`, `[[[]]]`,
	`{"a":{"b":{"c":[{}]}}}`,
}

// FuzzSplit compares with encoding/json: the same members with the same values, in order, the last of equal keys last.
func FuzzSplit(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if !json.Valid(doc) {
			return
		}
		var object map[string]json.RawMessage
		got := map[string]json.RawMessage{}
		err := Object(doc, func(key string, value []byte) error { got[key] = value; return nil })
		isObject := bytes.HasPrefix(bytes.TrimLeft(doc, " \t\r\n"), []byte("{"))
		if (err == nil) != isObject {
			t.Fatalf("%q: %v", doc, err)
		}
		if isObject {
			if err := json.Unmarshal(doc, &object); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(object, got) {
				t.Errorf("%q: %q, not %q", doc, got, object)
			}
		}
		var array, items []json.RawMessage
		err = Array(doc, func(value []byte) error { items = append(items, value); return nil })
		isArray := bytes.HasPrefix(bytes.TrimLeft(doc, " \t\r\n"), []byte("["))
		if (err == nil) != isArray {
			t.Fatalf("%q: %v", doc, err)
		}
		if isArray {
			if err := json.Unmarshal(doc, &array); err != nil {
				t.Fatal(err)
			}
			if len(array) != len(items) || len(array) > 0 && !reflect.DeepEqual(array, items) {
				t.Errorf("%q: %q, not %q", doc, items, array)
			}
		}
	})
}

// FuzzString compares with encoding/json in both directions.
func FuzzString(f *testing.F) {
	for _, s := range []string{"", "plain", `"`, `\`, "\n\x00\x7f", "é", "\u2028", "<&>", "\xff", "😀"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
		got := AppendString([]byte("x"), s)
		if string(got) != "x"+string(bytes.TrimSuffix(want.Bytes(), []byte("\n"))) {
			t.Errorf("%q: %s", s, got)
		}
		var back string
		if err := json.Unmarshal(got[1:], &back); err != nil {
			t.Fatal(err)
		}
		if v, ok := String(got[1:]); !ok || v != back {
			t.Errorf("%s: %q, not %q", got, v, back)
		}
	})
}

func TestString(t *testing.T) {
	t.Parallel()
	for _, v := range []string{``, `"`, `1`, `null`, `{}`, `[]`} {
		if s, ok := String([]byte(v)); ok {
			t.Errorf("%s is a string: %q", v, s)
		}
	}
}

func TestWriter(t *testing.T) {
	t.Parallel()
	w := Begin([]byte("["))
	w.String("a", "x")
	w.StringIf("b", "")
	w.StringIf("c", "<y>")
	w.Bool("g", false)
	w.TrueIf("h", false)
	w.TrueIf("i", true)
	w.Raw("d", []byte(" { \"e\" : [ 1 , \"a b\" ] } "))
	w.Append("f", func(b []byte) []byte { return append(b, "7"...) })
	if got, want := string(w.End()), `[{"a":"x","c":"<y>","g":false,"i":true,"d":{"e":[1,"a b"]},"f":7}`; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if got := string(Begin(nil).End()); got != "{}" {
		t.Error(got)
	}
	if got := string(AppendRaw(nil, []byte("{"))); got != "null" {
		t.Error(got)
	}
}
