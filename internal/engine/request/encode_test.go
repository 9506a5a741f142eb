package request

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArgsParseJSON(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]bool{
		`[]`: true, `[["a","b"]]`: true, `[["a","b"],["c","\u0064"]]`: true,
		`null`: false, `{}`: false, `[["a"]]`: false, `[["a","b","c"]]`: false, `[["a",1]]`: false, `[[null,"b"]]`: false,
		`["a"]`: false,
	} {
		var got, other Args
		if ok := got.ParseJSON([]byte(doc)); ok != want {
			t.Errorf("%s: %t", doc, ok)
		}
		if !want {
			continue
		}
		if err := json.Unmarshal([]byte(doc), &other); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(other) || len(got) > 0 && cmp.Diff(other, got) != "" {
			t.Errorf("%s: %v, not %v", doc, got, other)
		}
	}
}
