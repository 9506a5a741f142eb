package failpoint

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write names.go")

// TestNames checks that Names has every point of the source exactly once, so that tests that go through them miss none.
func TestNames(t *testing.T) {
	t.Parallel()
	found := map[string]string{}
	for _, dir := range []string{"../../internal", "../../cmd", "../../wire"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			return scan(path, func(name, at string) {
				if other, ok := found[name]; ok {
					t.Errorf("point %q is at %s and at %s", name, other, at)
				}
				found[name] = at
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	if *update {
		write(t, names)
		return
	}
	if !slices.Equal(names, Names) {
		t.Errorf("Names is not what the source has: go test ./internal/failpoint -update\ngot  %q\nwant %q", Names, names)
	}
}

// scan calls found for every failpoint.At with a constant name. Any other name is an error.
func scan(path string, found func(name, at string)) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 1 {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != "At" {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
			return true
		}
		lit, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			err = fmt.Errorf("%s: a point's name must be a constant string", set.Position(call.Pos()))
			return false
		}
		name, uerr := strconv.Unquote(lit.Value)
		if uerr != nil {
			err = uerr
		}
		found(name, set.Position(call.Pos()).String())
		return true
	})
	return err
}

func write(t *testing.T, names []string) {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("package failpoint\n\n// Names has all points of the source, sorted. TestNames checks it, and " +
		"writes it with -update.\nvar Names = []string{\n")
	for _, n := range names {
		fmt.Fprintf(&b, "\t%q,\n", n)
	}
	b.WriteString("}\n")
	src, err := format.Source(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("names.go", src, 0o644); err != nil {
		t.Fatal(err)
	}
}
