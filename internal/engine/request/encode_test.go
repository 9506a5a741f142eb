package request

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestAppendJSON checks that encoding/json decodes what AppendJSON encodes.
func TestAppendJSON(t *testing.T) {
	t.Parallel()
	for _, r := range []*Request{
		{},
		{
			Command: "ADD", ContainerID: "c", Netns: "/run/netns/x", IfName: "eth0", Args: Args{{"a", "b=\"<"}, {"", ""}},
			Path: "/opt/cni/bin", Config: []byte("{\n}\xff"),
		},
	} {
		got := &Request{}
		if err := json.Unmarshal(r.AppendJSON(nil), got); err != nil {
			t.Fatalf("%s: %v", r.AppendJSON(nil), err)
		}
		if r.Config == nil {
			got.Config = nil
		}
		if d := cmp.Diff(r, got, cmpopts.IgnoreUnexported(Request{})); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

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
