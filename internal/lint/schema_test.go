package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestSchema compares the keys of each reference plugin with its source in the release that tools/cni pins: the struct
// that embeds the common configuration must have exactly these keys.
func TestSchema(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/containernetworking/plugins")
	cmd.Dir = "../../tools/cni"
	cmd.Env = append(cmd.Environ(), "GOPROXY=off", "GOFLAGS=-mod=mod")
	out, err := cmd.Output()
	root := strings.TrimSpace(string(out))
	if err != nil || root == "" {
		t.Skipf("the source of the reference plugins is not here: run make tools (%v)", err)
	}
	for plugin, known := range references {
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			dirs, err := filepath.Glob(filepath.Join(root, "plugins", "*", plugin))
			if err != nil || len(dirs) != 1 {
				t.Fatalf("%v, %v", dirs, err)
			}
			for _, key := range slices.Sorted(maps.Keys(keysOf(t, dirs[0]))) {
				if _, ok := common[key]; !ok && known[key] == "" {
					t.Errorf("%s has the key %q, which is not in the table", plugin, key)
				}
			}
			for key := range known {
				if !keysOf(t, dirs[0])[key] {
					t.Errorf("%s does not support the key %q of the table", plugin, key)
				}
			}
		})
	}
}

// keysOf returns the JSON keys of the struct of a plugin that embeds types.NetConf or types.PluginConf, including those
// of other embedded structs of the plugin.
func keysOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	structs := map[string]*ast.StructType{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	out := map[string]bool{}
	for _, s := range structs {
		if slices.ContainsFunc(s.Fields.List, embedsCommon) {
			collect(s, structs, out)
		}
	}
	return out
}

// embedsCommon reports whether a field is the embedded struct of the CNI library.
func embedsCommon(f *ast.Field) bool {
	sel, ok := f.Type.(*ast.SelectorExpr)
	return ok && len(f.Names) == 0 && (sel.Sel.Name == "NetConf" || sel.Sel.Name == "PluginConf")
}

func collect(s *ast.StructType, structs map[string]*ast.StructType, out map[string]bool) {
	for _, f := range s.Fields.List {
		if embedded, ok := f.Type.(*ast.Ident); ok && len(f.Names) == 0 && structs[embedded.Name] != nil {
			collect(structs[embedded.Name], structs, out)
		}
		if star, ok := f.Type.(*ast.StarExpr); ok && len(f.Names) == 0 {
			if embedded, ok := star.X.(*ast.Ident); ok && structs[embedded.Name] != nil {
				collect(structs[embedded.Name], structs, out)
			}
		}
		if f.Tag == nil {
			continue
		}
		tag, err := strconv.Unquote(f.Tag.Value)
		name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if err == nil && name != "" && name != "-" {
			out[name] = true
		}
	}
}
