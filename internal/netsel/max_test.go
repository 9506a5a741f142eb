package netsel

import (
	"errors"
	"runtime"
	"strings"
	"testing"
)

// TestParseMax checks that an annotation with more elements than allowed is refused with ErrTooMany, that one with
// another error is refused with that error, and that one with the maximum number of elements is parsed.
func TestParseMax(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, value string
		most, want  int // elements, or -1 for ErrTooMany, or -2 for another error
	}{
		{"C3 an empty annotation, limit 0", "", 0, 0},
		{"C18 an empty list, limit 0", "[]", 0, 0},
		{"C15 one empty item, limit 0", " ", 0, -1},
		{"C10 as many as the limit", "a,b", 2, 2},
		{"C10 one more than the limit", "a,b,c", 2, -1},
		{"C18 as many as the limit", `[{"name":"a","ips":["10.0.0.1","10.0.0.2"]},{"name":"b"}]`, 2, 2},
		{"C18 one more than the limit", `[{"name":"a"},{"name":"b"},{}]`, 2, -1},
		{"C18 one element, limit 0", `[{"name":"a"}]`, 0, -1},
		{"C18 null", `[null,null,null]`, 2, -1},
		{"C35 not an array", `{"name":"a","ips":["10.0.0.1","10.0.0.2"]}`, 1, -2},
		{"C10 cut off", `[{},{},{}`, 1, -2},
		{"C10 data after the list", `[{},{}]]`, 2, -2},
		{"C10 too many, and data after the list", `[{},{},{}]]`, 2, -1},
		{"negative", "a", -1, -1},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got, err := ParseMax(tc.value, tc.most)
			if tc.want >= 0 && (err != nil || len(got) != tc.want) || tc.want < 0 &&
				(got != nil || err == nil || errors.Is(err, ErrTooMany) != (tc.want == -1)) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// TestParseMaxMemory checks that the elements are counted before they are allocated. A pod's annotations have up to 256
// KiB.
func TestParseMaxMemory(t *testing.T) { //nolint:paralleltest // it measures the allocations of the process
	const size = 256 << 10
	for what, value := range map[string]string{
		"comma form":              strings.Repeat("n,", size/2),
		"JSON":                    "[" + strings.Repeat("{},", size/3) + "{}]",
		"JSON, and data after it": "[" + strings.Repeat("{},", size/3) + "{}]]",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseMax(value, 64)
		runtime.ReadMemStats(&after)
		const most = 8 * size
		if took := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, ErrTooMany) || took > most {
			t.Errorf("%s: %v, and %d bytes, want at most %d", what, err, took, most)
		}
	}
}
