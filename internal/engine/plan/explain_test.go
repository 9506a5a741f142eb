package plan_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/engine/plan"
)

// TestExplain explains the plan of every golden archive and compares the result with testdata/explain. It checks that
// every value of each plan is attributed to its source (behaviour B39, C63-C70; multus-cni#302).
func TestExplain(t *testing.T) {
	t.Parallel()
	explained := 0
	eachArchive(t, func(path string, a *archive) {
		planned := slices.ContainsFunc(a.files, func(f member) bool { return f.name == "plan.json" })
		if strings.Contains(a.comment, "known: ") || !planned {
			return
		}
		explained++
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden := filepath.Join("testdata", "explain", name+".txt")
			got := newBench(t, a).explain(t)
			want, err := os.ReadFile(golden)
			if *update {
				err = os.WriteFile(golden, []byte(got), 0o644)
				want = []byte(got)
			}
			if err != nil {
				t.Fatalf("%v; go test -update writes it", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got); go test -update accepts what it got:\n%s", diff)
			}
		})
	})
	if explained < 60 {
		t.Errorf("%d plans explained", explained)
	}
}

// explain makes the plan and returns its explanation, one value per line.
func (b *bench) explain(t *testing.T) string {
	t.Helper()
	p, err := b.resolver.Plan(t.Context(), b.req, b.conf)
	if err != nil {
		t.Fatal(err)
	}
	x, err := plan.Explain(p, b.req, b.conf)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	list := func(indent string, values []plan.Value) {
		for _, v := range values {
			fmt.Fprintf(&out, "%s%s = %s  # %s\n", indent, v.Name, v.Value, v.From)
			if v.Lost != "" {
				fmt.Fprintf(&out, "%s  LOST: %s\n", indent, v.Lost)
			}
		}
	}
	list("", x.Values)
	for _, a := range x.Attachments {
		fmt.Fprintf(&out, "\n%s %s\n", a.IfName, a.Network)
		list("  ", a.Values)
		for _, d := range a.Plugins {
			fmt.Fprintf(&out, "  %s < %s\n", d.Type, d.Config)
		}
	}
	return strings.ReplaceAll(out.String(), b.dir, "$DIR")
}
