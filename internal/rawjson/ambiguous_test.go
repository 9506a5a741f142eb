package rawjson

import (
	"fmt"
	"strings"
	"testing"
)

// TestAmbiguous checks that two keys of one object that differ only in case are found at any depth and among any number
// of keys. Equal keys, of which the last one counts, and keys of different objects are not ambiguous.
func TestAmbiguous(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range 40 {
		fmt.Fprintf(&many, `"k%d":0,`, i)
	}
	for doc, want := range map[string]bool{
		``: false, `1`: false, `"aA"`: false, `{}`: false, `{"a":1,"b":2}`: false, `{"a":1,"a":2}`: false,
		`{"a":{"A":1}}`: false, `[{"a":1},{"A":1}]`: false,
		`{"a":1,"A":2}`: true, ` [ { "x" : [ { "a" : 1 , "A" : 2 } ] } ]`: true, `{"k":1,"\u212a":2}`: true,
		`{"\u0061":1,"A":2}`:           true,
		`{` + many.String() + `"z":1}`: false, `{` + many.String() + `"K3":1}`: true, `{` + many.String() + `"K39":1}`: true,
		`{` + many.String() + `"k39":1}`: false,
	} {
		if err := Ambiguous([]byte(doc)); (err != nil) != want {
			t.Errorf("%s: %v", doc, err)
		}
	}
}
