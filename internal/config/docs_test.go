package config

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestEveryKeyIsDocumented compares the struct tags with docs/configuration.md, and checks that the page's JSON blocks
// are configurations that can be parsed.
func TestEveryKeyIsDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	plugin, daemon, ok := strings.Cut(string(b), "## The daemon's file")
	if !ok {
		t.Fatal("the page has no section on the daemon's file")
	}
	for _, tc := range []struct {
		name, page string
		typ        reflect.Type
	}{
		{"plugin", plugin, reflect.TypeFor[Plugin]()},
		{"daemon", daemon, reflect.TypeFor[Daemon]()},
	} {
		documented := map[string]bool{}
		for line := range strings.Lines(tc.page) {
			if cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && strings.HasPrefix(line, "| `") {
				for key := range strings.SplitSeq(cell, ", ") {
					documented[strings.Trim(key, "`")] = true
				}
			}
		}
		for field := range tc.typ.Fields() {
			key := field.Tag.Get("json")
			if field.IsExported() && key != "-" && !documented[key] {
				t.Errorf("%s: key %q is not in docs/configuration.md", tc.name, key)
			}
			delete(documented, key)
		}
		delete(documented, "capabilities") // for the runtime, not for Multus
		for key := range documented {
			t.Errorf("%s: docs/configuration.md has %q, which is not a key", tc.name, key)
		}
	}
	for _, block := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(b), -1) {
		if !json.Valid([]byte(block[1])) {
			t.Errorf("not JSON: %s", block[1])
		}
	}
}
