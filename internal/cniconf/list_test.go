package cniconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func parse(tb testing.TB, s string) *List {
	tb.Helper()
	l, err := Parse([]byte(s))
	if err != nil {
		tb.Fatalf("Parse(%s): %v", s, err)
	}
	return l
}

func raw(m map[string]string) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for k, v := range m {
		out[k] = json.RawMessage(v)
	}
	return out
}

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, conf, name, version string
		single                    bool
		types                     []string
	}{
		{
			"B6 plugin configuration", `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`, "n", "1.0.0", true,
			[]string{"bridge"},
		},
		{
			"B6 list", `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"b"}]}`, "n", "1.0.0", false,
			[]string{"a", "b"},
		},
		{"B6 a type makes it a plugin configuration", `{"type":"a","plugins":[]}`, "", "", true, []string{"a"}},
		{"B6 an empty type does not", `{"type":"","plugins":[{"type":"a"}]}`, "", "", false, []string{"a"}},
		{"B3 name and version are absent, or null", `{"name":null,"cniVersion":"","type":"a"}`, "", "", true, []string{"a"}},
		{"A2 the last of equal keys", `{"type":"a","type":"b","name":"x","name":"y"}`, "y", "", true, []string{"b"}},
		{"white space and line ends", "\r\n { \"type\" :\t\"a\" } \n", "", "", true, []string{"a"}},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			l := parse(t, tc.conf)
			if l.Name() != tc.name || l.Version() != tc.version || l.Single() != tc.single ||
				!slices.Equal(l.Types(), tc.types) {
				t.Errorf("%q %q single %t %v", l.Name(), l.Version(), l.Single(), l.Types())
			}
			if string(l.Bytes()) != tc.conf {
				t.Errorf("bytes changed: %s", l.Bytes())
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	tests := []struct{ rule, conf, want string }{
		{"B6 M23 neither type nor plugins", `{"name":"n"}`, ErrNoType.Error()},
		{"A37 no plugins", `{"name":"n","plugins":[]}`, `"plugins" is empty`},
		{"A37 null plugins", `{"name":"n","plugins":null}`, `"plugins" is empty`},
		{
			"A36 plugin without type", `{"plugins":[{"type":"a"},{"name":"b"}]}`,
			"plugin 2: a plugin delegate must have the 'type' field",
		},
		{"plugins is not an array", `{"plugins":{}}`, `"plugins" must be an array`},
		{"plugin is not an object", `{"plugins":["a"]}`, "plugin 1: want a JSON object, not the string \"a\""},
		{"plugin is null", `{"plugins":[null]}`, "plugin 1: want a JSON object, not null"},
		{"type is not a string", `{"type":5}`, `"type" must be a string, not 5`},
		{"name is not a string", `{"type":"a","name":["x"]}`, `"name" must be a string, not ["x"]`},
		{"version is not a string", `{"type":"a","cniVersion":1.0}`, `"cniVersion" must be a string, not 1.0`},
		{"plugin's type is not a string", `{"plugins":[{"type":{}}]}`, `plugin 1: "type" must be a string`},
		{"B2 nothing", ``, "parse CNI configuration: "},
		{"B2 null", `null`, "want a JSON object, not null"},
		{"B2 list", `[]`, "want a JSON object, not an array"},
		{"B2 number", `5`, "want a JSON object, not 5"},
		{"B2 cut off", `{"type":"a"`, "parse CNI configuration: "},
		{"B2 cut off in a key", `{"type":"a","na`, "parse CNI configuration: "},
		{"B2 data after the object", `{"type":"a"}{}`, "unexpected data after the JSON object"},
		{"B2 one brace too many", `{"type":"a"}}`, "parse CNI configuration: "},
		{"B2 a comment", "{\"type\":\"a\"} // x", "parse CNI configuration: "},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(tc.conf))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse(%s) = %v, want %q", tc.conf, err, tc.want)
			}
			if errors.Is(err, ErrNoType) != (tc.want == ErrNoType.Error()) {
				t.Errorf("ErrNoType: %v", err)
			}
		})
	}
}

// TestWithDefaults checks B3, B5 and D63: name and version of the outer configuration are set if they are
// missing, and only then.
func TestWithDefaults(t *testing.T) {
	t.Parallel()
	tests := []struct{ rule, conf, name, version, want string }{
		{"B3 both", `{"type":"a"}`, "n", "1.0.0", `{"cniVersion":"1.0.0","name":"n","type":"a"}`},
		{
			"B3 kept byte for byte", `{ "type":"a", "name":"mine","cniVersion":"0.3.1" }`, "n", "1.0.0",
			`{ "type":"a", "name":"mine","cniVersion":"0.3.1" }`,
		},
		{
			"B3 empty name", `{"name":"","type":"a","cniVersion":"0.4.0"}`, "n", "1.0.0",
			`{"cniVersion":"0.4.0","name":"n","type":"a"}`,
		},
		{
			"B5 version only", `{"name":"mine","plugins":[{"type":"a"}]}`, "n", "1.0.0",
			`{"cniVersion":"1.0.0","name":"mine","plugins":[{"type":"a"}]}`,
		},
		{"B5 none to inherit", `{"type":"a"}`, "n", "", `{"name":"n","type":"a"}`},
		{"B5 none to inherit, nothing to do", `{"type":"a", "name":"m"}`, "n", "", `{"type":"a", "name":"m"}`},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			before := parse(t, tc.conf)
			l, err := before.WithDefaults(tc.name, tc.version)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(l.Bytes())); diff != "" {
				t.Error(diff)
			}
			if string(before.Bytes()) != tc.conf {
				t.Error("the list itself changed")
			}
		})
	}
}

func TestWithCNIArgs(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, conf string
		args       map[string]string
		want       string // or the error, after "!"
	}{
		{"C30 none", `{ "type":"a"}`, nil, `{ "type":"a"}`},
		{"C68 new", `{"type":"a"}`, map[string]string{"k": `"v"`}, `{"args":{"cni":{"k":"v"}},"type":"a"}`},
		{
			"C68 merged, equal keys overwritten", `{"type":"a","args":{"cni":{"k":1,"kept":9007199254740993},"other":[1.50]}}`,
			map[string]string{"k": `"v"`, "a": `{}`},
			`{"args":{"cni":{"a":{},"k":"v","kept":9007199254740993},"other":[1.50]},"type":"a"}`,
		},
		{
			"C68 null counts as absent", `{"type":"a","args":null}`,
			map[string]string{"k": "1"},
			`{"args":{"cni":{"k":1}},"type":"a"}`,
		},
		{
			"C68 inner null too", `{"type":"a","args":{"cni":null}}`,
			map[string]string{"k": "1"},
			`{"args":{"cni":{"k":1}},"type":"a"}`,
		},
		{
			"C68 every plugin of a list", `{"name":"n","plugins":[{"type":"a"},{"type":"b","args":{"cni":{"x":1}}}]}`,
			map[string]string{"k": "1"},
			`{"name":"n","plugins":[{"args":{"cni":{"k":1}},"type":"a"},{"args":{"cni":{"k":1,"x":1}},"type":"b"}]}`,
		},
		{"C68 args is a string", `{"type":"a","args":"x"}`, map[string]string{"k": "1"}, `!"args" must be an object, not "x"`},
		{"C68 args is a list", `{"type":"a","args":[]}`, map[string]string{"k": "1"}, `!"args" must be an object, not []`},
		{
			"C68 args.cni is a number", `{"type":"a","args":{"cni":5}}`,
			map[string]string{"k": "1"},
			`!"cni" must be an object, not 5`,
		},
		{
			"C68 the plugin is named", `{"plugins":[{"type":"a"},{"type":"b","args":true}]}`,
			map[string]string{"k": "1"},
			`!plugin 2 ("b"): "args" must be an object`,
		},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			var args map[string]json.RawMessage
			if tc.args != nil {
				args = raw(tc.args)
			}
			l, err := parse(t, tc.conf).WithCNIArgs(args)
			if want, bad := strings.CutPrefix(tc.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(l.Bytes())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestWithDevice checks C69 and Q11: both keys are set in every plugin, whatever their values were.
func TestWithDevice(t *testing.T) {
	t.Parallel()
	for conf, want := range map[string]string{
		`{"type":"a"}`: `{"deviceID":"d<1>","pciBusID":"d<1>","type":"a"}`,
		`{"type":"a","deviceID":"old","pciBusID":5,"n":1e400}`:      `{"deviceID":"d<1>","n":1e400,"pciBusID":"d<1>","type":"a"}`,
		`{"deviceID":"list","plugins":[{"type":"a"},{"type":"b"}]}`: `{"deviceID":"list","plugins":[{"deviceID":"d<1>","pciBusID":"d<1>","type":"a"},{"deviceID":"d<1>","pciBusID":"d<1>","type":"b"}]}`,
	} {
		l, err := parse(t, conf).WithDevice("d<1>")
		if err != nil {
			t.Fatal(err)
		}
		got := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(l.Bytes()))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// TestParseWith checks B35 and B36: plugins of a subdirectory follow the list's own plugins as they are written.
func TestParseWith(t *testing.T) {
	t.Parallel()
	more := [][]byte{[]byte(`{"type":"b", "n": 9007199254740993}`), []byte("{\n\"type\":\"c\"}\n")}
	tests := []struct {
		name, conf string
		more       [][]byte
		want       string
	}{
		{"no further capability", ` {"name":"n","plugins":[{"type":"a"}]}`, nil, ` {"name":"n","plugins":[{"type":"a"}]}`},
		{
			"appended", `{"name":"n","plugins":[{"type":"a"}]}`, more,
			`{"name":"n","plugins":[{"type":"a"},{"type":"b", "n": 9007199254740993},` + "{\n\"type\":\"c\"}\n" + `]}`,
		},
		{"only the supported capabilities", `{"name":"n"}`, more[:1], `{"name":"n","plugins":[{"type":"b", "n": 9007199254740993}]}`},
		{"null", `{"name":"n","plugins":null}`, more[:1], `{"name":"n","plugins":[{"type":"b", "n": 9007199254740993}]}`},
		{"no capability", `{"name":"n"}`, nil, "!" + ErrNoType.Error()},
		{"plugins is not an array", `{"name":"n","plugins":5}`, more, `!"plugins" must be an array`},
		{
			"one without a type", `{"name":"n","plugins":[]}`,
			[][]byte{[]byte(`{}`)},
			"!plugin 1: a plugin delegate must have the 'type' field",
		},
		{"not JSON", `{"name"`, more, "!parse CNI configuration"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l, err := ParseWith([]byte(tc.conf), tc.more)
			if want, bad := strings.CutPrefix(tc.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(l.Bytes())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCapabilities checks F27: it returns the capabilities that a plugin declares as true. F27: another type is
// an error and not a panic.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	got, err := parse(t, `{"plugins":[{"type":"a","capabilities":{"ips":false,"mac":true}},{"type":"b"},{"type":"c","capabilities":{"ips":true,"dns":false}},{"type":"d","capabilities":null}]}`).Capabilities()
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(got, func(_ string, on bool) bool { return !on })
	if diff := cmp.Diff(map[string]bool{"ips": true, "mac": true}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := parse(t, `{"type":"a","capabilities":{"ips":"yes"}}`).Capabilities(); err == nil ||
		!strings.Contains(err.Error(), `"a"`) {
		t.Errorf("a string for a boolean: %v", err)
	}
}

// TestLibcni checks what libcni gets: always a list, with the bytes of a single configuration as they were written
// (behaviour D84), the list's flags (behaviour K9) and the highest version (behaviour K8).
func TestLibcni(t *testing.T) {
	t.Parallel()
	single := `{"cniVersion":"0.4.0","name":"n","type":"a","x":9007199254740993}`
	got, err := parse(t, single).Libcni()
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "n" || got.CNIVersion != "0.4.0" || len(got.Plugins) != 1 || string(got.Bytes) != single ||
		string(got.Plugins[0].Bytes) != single || got.Plugins[0].Network.Type != "a" {
		t.Errorf("%+v", got)
	}
	got, err = parse(t, `{"cniVersions":["0.4.0","1.0.0","99.0.0"],"name":"n","disableCheck":"true","disableGC":true,"plugins":[{"type":"a","x":1},{"type":"b"}]}`).Libcni()
	if err != nil {
		t.Fatal(err)
	}
	if got.CNIVersion != "1.0.0" || !got.DisableCheck || !got.DisableGC || len(got.Plugins) != 2 {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{
		`{"plugins":[{"type":"a"}]}`,
		`{"name":"n","disableCheck":"maybe","plugins":[{"type":"a"}]}`,
	} {
		if _, err := parse(t, bad).Libcni(); err == nil {
			t.Errorf("libcni takes %s", bad)
		}
	}
}

// TestJSON checks that a list is encoded and decoded without the change of a byte (behaviour D82).
func TestJSON(t *testing.T) {
	t.Parallel()
	for _, conf := range []string{
		`{"name":"n","type":"a"}`,
		"{ \"name\": \"n\",\n\t\"type\": \"a\", \"big\": 9007199254740993 }\n",
		`{"name":"n","type":"a","html":"<&>","sep":"` + "\u2028" + `","esc":"\u003c\/"}`,
		`{"name":"n","plugins":[{"type":"a"}]}`,
	} {
		b, err := json.Marshal(struct{ L *List }{parse(t, conf)})
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ L *List }
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(conf, string(got.L.Bytes())); diff != "" {
			t.Errorf("through %s:\n%s", b, diff)
		}
	}
	for _, bad := range []string{`""`, `"x"`, `5`, `"{}"`, `{}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), &List{}); err == nil {
			t.Errorf("%s is parsed as a configuration", bad)
		}
	}
}

// FuzzParse checks A38: everything that can be parsed can be edited, and an edit leaves every other member as
// it was written, byte for byte.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"type":"a"}`, `{"name":"n","plugins":[{"type":"a"},{"type":"b","args":{"cni":{"x":1}}}]}`,
		`{"name":"n","plugins":[]}`, `{"plugins":null}`, `{"type":"a","args":"x"}`,
		`{"cniVersion":"1.0.0","type":"fakeB","capabilities":{"ips":true},"n":9007199254740993,"e":1e999,"nested":{"b":1,"a":[null,{}]}}`,
		`{"type":"a","type":"b","name":"x","":1,"\u0000":2,"dup":1,"dup":2}`, "{\"type\":\"a\",\"k\xff\":1}",
		`{"type":"a","<&>":"\u2028"}`, "null", "[]", "{", `{"plugins":[[]]}`,
	} {
		f.Add([]byte(seed), "k", `"v"`)
	}
	f.Add([]byte(`{"type":"a"}`), "", `{"deep":[1.0]}`)
	f.Fuzz(func(t *testing.T, conf []byte, key, value string) {
		l, err := Parse(conf)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Bytes(), conf) || len(l.Types()) == 0 || slices.Contains(l.Types(), "") {
			t.Fatalf("%s: bytes %s types %q", conf, l.Bytes(), l.Types())
		}
		if !utf8.Valid(conf) || !utf8.ValidString(key+value) {
			return // not valid JSON (RFC 8259 §8.1)
		}
		wire(t, l)
		if d, err := l.WithDefaults("name", "1.0.0"); err != nil {
			t.Errorf("WithDefaults: %v", err)
		} else {
			if d.Name() == "" || d.Version() == "" {
				t.Errorf("WithDefaults: %s", d.Bytes())
			}
			untouched(t, conf, d.Bytes(), "name", "cniVersion")
		}
		if d, err := l.WithDevice("dev"); err != nil {
			t.Errorf("WithDevice: %v", err)
		} else {
			plugins(t, l, d, "deviceID", "pciBusID")
		}
		if !json.Valid([]byte(value)) {
			return
		}
		if d, err := l.WithCNIArgs(map[string]json.RawMessage{key: json.RawMessage(value)}); err == nil {
			plugins(t, l, d, "args")
			wire(t, d)
		} else if !strings.Contains(err.Error(), "must be an object") {
			t.Errorf("WithCNIArgs: %v", err)
		}
	})
}

func wire(t *testing.T, l *List) {
	t.Helper()
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatalf("encode %s: %v", l.Bytes(), err)
	}
	again := &List{}
	if err := json.Unmarshal(b, again); err != nil {
		t.Fatalf("decode %s: %v", b, err)
	}
	if !bytes.Equal(again.Bytes(), l.Bytes()) {
		t.Errorf("on the wire %s becomes %s", l.Bytes(), again.Bytes())
	}
}

// members decodes with the standard library, which shares nothing with the code under test.
func members(t *testing.T, b []byte) map[string]json.RawMessage {
	t.Helper()
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return m
}

func untouched(t *testing.T, before, after []byte, edited ...string) {
	t.Helper()
	b, a := members(t, before), members(t, after)
	for _, k := range edited {
		delete(b, k)
		delete(a, k)
	}
	if diff := cmp.Diff(b, a); diff != "" {
		t.Errorf("other members changed (-before +after):\n%s", diff)
	}
}

func plugins(t *testing.T, before, after *List, edited ...string) {
	t.Helper()
	if !slices.Equal(before.Types(), after.Types()) || before.Name() != after.Name() ||
		before.Version() != after.Version() {
		t.Fatalf("%s becomes %s", before.Bytes(), after.Bytes())
	}
	if before.Single() {
		untouched(t, before.Bytes(), after.Bytes(), edited...)
		return
	}
	untouched(t, before.Bytes(), after.Bytes(), "plugins")
	var b, a []json.RawMessage
	if err := errors.Join(json.Unmarshal(members(t, before.Bytes())["plugins"], &b),
		json.Unmarshal(members(t, after.Bytes())["plugins"], &a)); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		untouched(t, b[i], a[i], edited...)
	}
}

// TestAmbiguous checks that keys that differ only in case are found: encoding/json may use either of them, so that it
// is not clear which one counts.
func TestAmbiguous(t *testing.T) {
	t.Parallel()
	many := ""
	for i := range 40 {
		many += fmt.Sprintf(`"k%d":0,`, i)
	}
	for conf, want := range map[string]bool{
		`{"name":"n","type":"bridge"}`:                                                      false,
		`{"name":"n","type":"bridge","Type":"host-device"}`:                                 true,
		`{"name":"n","type":"bridge","type":"host-device"}`:                                 false, // the last one wins in every decoder
		`{"name":"n","type":"bridge","ipam":{"type":"static","TYPE":"multus"}}`:             true,
		`{"name":"n","plugins":[{"type":"a"},{"type":"b","ma\u017fter":"x","master":"y"}]}`: true,
		`{"name":"n","type":"a","list":[[{"k":1,"\u212a":2}]]}`:                             true,
		`{"name":"n","type":"a","x":{"a":1},"y":{"A":1}}`:                                   false,
		`{"name":"n","type":"a","x":{` + many + `"b":1}}`:                                   false,
		`{"name":"n","type":"a","x":{` + many + `"b":1,"B":2}}`:                             true,
		`{"name":"n","type":"a","x":{` + many + `"K0":1}}`:                                  true,
		`{"name":"n","type":"a","Device":"x"}`:                                              false,
	} {
		l, err := Parse([]byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Ambiguous(); (err != nil) != want {
			t.Errorf("%s: %v", conf, err)
		}
	}
}

// TestTypeInAnyCase checks that the type is the one that libcni executes.
func TestTypeInAnyCase(t *testing.T) {
	t.Parallel()
	for _, conf := range []string{
		`{"cniVersion":"1.0.0","name":"n","Type":"host-device"}`,
		`{"cniVersion":"1.0.0","name":"n","plugins":[{"TYPE":"host-device"}]}`,
	} {
		l, err := Parse([]byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		made, err := l.Libcni()
		if err != nil || made.Plugins[0].Network.Type != "host-device" || l.Types()[0] != "host-device" {
			t.Errorf("%s: %v, %v", conf, l.Types(), err)
		}
	}
}

// TestIPAMTypes checks that IPAMTypes returns the IPAM plugin that is executed.
func TestIPAMTypes(t *testing.T) {
	t.Parallel()
	for conf, want := range map[string]string{
		`{"name":"n","type":"a"}`: "", `{"name":"n","type":"a","ipam":{}}`: "",
		`{"name":"n","type":"a","ipam":{"type":"static"}}`: "static",
		`{"name":"n","type":"a","IPAM":{"Type":"multus"}}`: "multus", `{"name":"n","type":"a","ipam":5}`: "",
		`{"name":"n","type":"a","ipam":{"type":5}}`:                                     "",
		`{"name":"n","plugins":[{"type":"a"},{"type":"b","\u0069pam" : {"type":"x"}}]}`: ",x",
		`{"name":"n","type":"a","ipam":{"type":"x","type":"y"}}`:                        "y",
		`{"name":"n","type":"a","ipam":null}`:                                           "",
	} {
		l, err := Parse([]byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(l.IPAMTypes(), ","); got != want {
			t.Errorf("%s: %q, want %q", conf, got, want)
		}
	}
}
