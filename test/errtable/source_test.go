package errtable

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"multus/internal/fault"
)

// row is one call of fault.New or fault.Wrap. Values that are known only at run time are <named>.
type row struct {
	message string
	codes   []uint
	next    string
	// where is the package and the function.
	where string
	// wraps reports whether the cause follows the message.
	wraps bool
}

// codes maps the names of fault's codes to their values.
var codes = map[string]uint{
	"BadEnvironment": fault.BadEnvironment, "Decoding": fault.Decoding, "BadConfig": fault.BadConfig,
	"TryAgain": fault.TryAgain, "NotAvailable": fault.NotAvailable, "Internal": fault.Internal,
}

// directive is a line in the comment of a function that adds a row for its call, if the text is made elsewhere. The
// code is one of those that the call may have.
const directive, directiveForm = "//errors:row ", "//errors:row code message => what to do"

// or separates the pieces of advice that one call may give.
const or = "; or: "

// source is the parsed source of internal, for looking up what calls refer to.
type source struct {
	set *token.FileSet
	// consts maps package.Name to strings, funcs maps package.name to functions. Methods are not included.
	consts map[string]string
	funcs  map[string]*ast.FuncDecl
	files  map[string]*ast.File
	pkg    string        // package of the current call
	fn     *ast.FuncDecl // function of the current call
}

func parse(t *testing.T) *source {
	t.Helper()
	s := &source{
		set: token.NewFileSet(), consts: map[string]string{}, funcs: map[string]*ast.FuncDecl{},
		files: map[string]*ast.File{},
	}
	err := filepath.WalkDir("../../internal", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(s.set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		s.files[path] = f
		s.declare(f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *source) declare(f *ast.File) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				s.funcs[f.Name.Name+"."+d.Name.Name] = d
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				v, ok := spec.(*ast.ValueSpec)
				if !ok || d.Tok != token.CONST || len(v.Names) != len(v.Values) {
					continue
				}
				for i, name := range v.Names {
					if lit, ok := v.Values[i].(*ast.BasicLit); ok {
						s.consts[f.Name.Name+"."+name.Name] = unquote(lit)
					}
				}
			}
		}
	}
}

// unquote returns the value of a string literal, or the text of a number.
func unquote(lit *ast.BasicLit) string {
	if text, err := strconv.Unquote(lit.Value); err == nil {
		return text
	}
	return lit.Value
}

// rows returns all faults of the source, sorted by code and text.
func rows(t *testing.T) []row {
	t.Helper()
	s := parse(t)
	var out []row
	for path, f := range s.files {
		s.pkg = f.Name.Name
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			s.fn = fn
			ast.Inspect(fn, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				got, err := s.rowsOf(call)
				if err != nil {
					t.Errorf("%s: %v", s.set.Position(call.Pos()), err)
				}
				dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../../")
				for i := range got {
					got[i].where = dir + ": " + fn.Name.Name
				}
				out = append(out, got...)
				return true
			})
		}
	}
	slices.SortFunc(out, func(a, b row) int {
		if c := slices.Compare(a.codes, b.codes); c != 0 {
			return c
		}
		return strings.Compare(a.message+"\n"+a.next+"\n"+a.where, b.message+"\n"+b.next+"\n"+b.where)
	})
	return out
}

// rowsOf returns the rows of a call. It returns none if the call is not one of package fault.
func (s *source) rowsOf(call *ast.CallExpr) ([]row, error) {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !isName(sel.X, "fault") || sel.Sel.Name != "New" && sel.Sel.Name != "Wrap" {
		return nil, nil
	}
	args, wraps := call.Args, sel.Sel.Name == "Wrap"
	if wraps {
		args = args[1:]
	}
	r := row{codes: s.codes(args[0]), wraps: wraps}
	if len(r.codes) == 0 {
		return nil, fmt.Errorf("the code of a fault must be one of package fault")
	}
	if given := s.directives(); len(given) > 0 {
		out := make([]row, len(given))
		for i, d := range given {
			code, text, _ := strings.Cut(d, " ")
			n, err := strconv.Atoi(code)
			if err != nil || n < 0 || !slices.Contains(r.codes, uint(n)) {
				return nil, fmt.Errorf("want %s, with one of the codes %d", directiveForm, r.codes)
			}
			out[i] = row{codes: []uint{uint(n)}, wraps: wraps}
			if out[i].message, out[i].next, ok = strings.Cut(text, " => "); !ok {
				return nil, fmt.Errorf("want %s", directiveForm)
			}
		}
		return out, nil
	}
	next := s.texts(args[1])
	message, ok := s.format(args[2], args[3:])
	if !ok || len(next) == 0 {
		return nil, fmt.Errorf("message and advice of a fault must be texts that can be read here, or have a comment %s",
			directiveForm)
	}
	r.message, r.next = message, strings.Join(next, or)
	return []row{r}, nil
}

// directives returns the directives of the function that contains the call.
func (s *source) directives() []string {
	if s.fn.Doc == nil {
		return nil
	}
	var out []string
	for _, c := range s.fn.Doc.List {
		if text, ok := strings.CutPrefix(c.Text, directive); ok {
			out = append(out, text)
		}
	}
	return out
}

// codes returns the possible codes of an expression: a code of fault, a variable that is set to codes, or a function
// that returns codes.
func (s *source) codes(e ast.Expr) []uint {
	var out []uint
	switch e := e.(type) {
	case *ast.SelectorExpr:
		if code, ok := codes[e.Sel.Name]; ok && isName(e.X, "fault") {
			out = append(out, code)
		}
	case *ast.Ident:
		for _, set := range s.assigned(e.Name) {
			out = append(out, s.codes(set)...)
		}
	case *ast.CallExpr:
		for _, r := range s.returns(e) {
			out = append(out, s.codes(r)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// assigned returns the values that are assigned to a variable of the function.
func (s *source) assigned(name string) []ast.Expr {
	var out []ast.Expr
	ast.Inspect(s.fn, func(n ast.Node) bool {
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == len(a.Rhs) {
			for i := range a.Lhs {
				if isName(a.Lhs[i], name) {
					out = append(out, a.Rhs[i])
				}
			}
		}
		return true
	})
	return out
}

// returns returns the values that a function of the same package returns.
func (s *source) returns(call *ast.CallExpr) []ast.Expr {
	name, ok := call.Fun.(*ast.Ident)
	if !ok || s.funcs[s.pkg+"."+name.Name] == nil {
		return nil
	}
	var out []ast.Expr
	ast.Inspect(s.funcs[s.pkg+"."+name.Name], func(n ast.Node) bool {
		if r, ok := n.(*ast.ReturnStmt); ok && len(r.Results) == 1 {
			out = append(out, r.Results[0])
		}
		return true
	})
	return out
}

// texts returns the possible strings of an expression. It returns none if they cannot be determined.
func (s *source) texts(e ast.Expr) []string {
	if text, ok := s.text(e); ok {
		return []string{text}
	}
	var out []string
	switch e := e.(type) {
	case *ast.Ident: // text of another fault that is passed on is in the row of that fault
		for _, set := range s.assigned(e.Name) {
			if text, ok := s.text(set); ok {
				out = append(out, text)
			}
		}
	case *ast.CallExpr:
		for _, r := range s.returns(e) {
			text, ok := s.text(r)
			if !ok {
				return nil
			}
			out = append(out, text)
		}
	}
	return out
}

// text evaluates constants, concatenations of strings, and fmt.Sprintf.
func (s *source) text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return unquote(e), e.Kind == token.STRING
	case *ast.BinaryExpr:
		x, okX := s.text(e.X)
		y, okY := s.text(e.Y)
		return x + y, okX && okY
	case *ast.CallExpr:
		if sel, ok := e.Fun.(*ast.SelectorExpr); ok && isName(sel.X, "fmt") && sel.Sel.Name == "Sprintf" {
			return s.format(e.Args[0], e.Args[1:])
		}
	}
	return s.constant(e)
}

func (s *source) constant(e ast.Expr) (string, bool) {
	name := s.pkg + "."
	switch e := e.(type) {
	case *ast.Ident:
		name += e.Name
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			name = x.Name + "." + e.Sel.Name
		}
	}
	text, ok := s.consts[name]
	return text, ok
}

// format replaces the verbs of a format by constants, and by <names> for values that are known only at run time.
func (s *source) format(format ast.Expr, args []ast.Expr) (string, bool) {
	text, ok := s.text(format)
	if !ok || strings.Count(strings.ReplaceAll(text, "%%", ""), "%") != len(args) {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		if text[i] == '%' {
			b.WriteByte('%')
			continue
		}
		for strings.IndexByte(".0123456789", text[i]) >= 0 { // precision of a verb
			i++
		}
		value, constant := s.constant(args[0])
		if !constant {
			value = "<" + named(args[0]) + ">"
		}
		if text[i] == 'q' {
			value = `"` + value + `"`
		}
		b.WriteString(value)
		args = args[1:]
	}
	return b.String(), true
}

// named returns the name of an argument for readers.
func named(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return readable(e.Name)
	case *ast.CallExpr:
		if len(e.Args) == 1 && isName(e.Fun, "len") {
			return "count"
		}
		return named(e.Fun)
	case *ast.BinaryExpr:
		return "count"
	case *ast.StarExpr:
		return named(e.X)
	case *ast.SelectorExpr:
		switch owner := named(e.X); {
		case e.Sel.Name == "Ref":
			return owner
		case e.Sel.Name == "Name" && (owner == "a" || owner == "out"):
			return "network"
		case owner == "err":
			return "why"
		}
		return readable(e.Sel.Name)
	case *ast.IndexExpr:
		return named(e.X)
	}
	return "..."
}

func readable(name string) string {
	for from, to := range map[string]string{
		"IfName": "interface", "i": "number", "ref": "object", "unknown": "names",
		"key": "annotation", "value": "name", "item": "text",
	} {
		if name == from {
			return to
		}
	}
	var b strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' && name[i-1] >= 'a' && name[i-1] <= 'z' {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

func isName(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}
