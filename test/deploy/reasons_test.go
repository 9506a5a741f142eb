package deploy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// emitting are the packages that create events.
var emitting = []string{
	"internal/engine/publish", "internal/agent/podstatus", "internal/agent/repair", "internal/host/daemon",
}

// reasons returns the reasons of all events in the source. A new one must be added to the policy.
func reasons(tb testing.TB) []string {
	tb.Helper()
	found := map[string]bool{}
	values := map[string][]string{} // values of constants and variables, by name
	var named []string
	for _, dir := range emitting {
		files, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			tb.Fatalf("files of %s: %v", dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
			if err != nil {
				tb.Fatal(err)
			}
			named = append(named, inspect(f, found, values)...)
		}
	}
	for _, name := range named {
		if len(values[name]) == 0 && !strings.EqualFold(name, "reason") { // a variable
			tb.Errorf("the value of the reason %s is not found", name)
		}
		for _, v := range values[name] {
			found[v] = true
		}
	}
	if len(found) < 7 {
		tb.Errorf("reasons: %v", found)
	}
	return slices.Sorted(maps.Keys(found))
}

// inspect adds the reasons that are literals to found, and those that are declared together in a group of constants. It
// adds the values of names to values, and returns the names that are used as reasons.
func inspect(f *ast.File, found map[string]bool, values map[string][]string) (named []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GenDecl:
			if strings.HasPrefix(n.Doc.Text(), "Reasons of events") {
				group(n, found)
			}
		case *ast.ValueSpec:
			for i, name := range n.Names {
				if i < len(n.Values) {
					define(values, name, n.Values[i])
				}
			}
		case *ast.AssignStmt:
			for i, left := range n.Lhs {
				if i < len(n.Rhs) {
					define(values, left, n.Rhs[i])
				}
			}
		case *ast.CompositeLit:
			if name, ok := n.Type.(*ast.Ident); ok && name.Name == "Unready" {
				return false // the reason of a condition
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); !ok || key.Name != "Reason" {
				return true
			}
			switch v := n.Value.(type) {
			case *ast.BasicLit:
				found[text(v)] = true
			case *ast.Ident:
				named = append(named, v.Name)
			case *ast.SelectorExpr:
				named = append(named, v.Sel.Name)
			}
		}
		return true
	})
	return named
}

// group adds the values of a group of constants to found.
func group(of *ast.GenDecl, found map[string]bool) {
	for _, spec := range of.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if !ok {
			continue
		}
		for _, value := range v.Values {
			if lit, ok := value.(*ast.BasicLit); ok {
				found[text(lit)] = true
			}
		}
	}
}

func define(values map[string][]string, left, right ast.Expr) {
	name, ok := left.(*ast.Ident)
	lit, isLit := right.(*ast.BasicLit)
	if ok && isLit && lit.Kind == token.STRING {
		values[name.Name] = append(values[name.Name], text(lit))
	}
}

func text(lit *ast.BasicLit) string {
	s, _ := strconv.Unquote(lit.Value) // the parser has accepted it
	return s
}

// TestReasons checks that reasons finds the reasons in the source.
func TestReasons(t *testing.T) {
	t.Parallel()
	got := reasons(t)
	for _, want := range []string{
		"AddedInterface", "RemovedInterface", "NoNetworkFound", "FailedAddingInterface", "FailedRemovingInterface",
		"InterfaceAddRejected", "InterfaceChangeIgnored", "CNIConfigurationLost",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not among %q", want, got)
		}
	}
	if slices.ContainsFunc(got, func(s string) bool { return s == "" || strings.ContainsAny(s, " :%") }) {
		t.Errorf("no reason: %q", got)
	}
}
