// Package lint checks network attachment definitions and pods before anybody applies them: bytes in, findings out. It
// reads no files and asks nobody; what it cannot know from the files it is given, it does not judge. Annotations and
// CNI configurations are read by netsel and cniconf, the parsers of ADD, so that both agree on what is valid. Process
// edges (internal/cli, internal/host) may import it.
package lint

import (
	"cmp"
	"fmt"
	"slices"

	"multus/internal/engine/plan"
)

// Severity says what becomes of it when nobody acts.
type Severity string

// The severities: an Error fails a pod, or would; a Warning is not what its writer meant.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// File is a YAML or JSON file with any number of documents.
type File struct {
	Name string
	Data []byte
}

// Finding is one thing that is wrong, and where. Line and Column count from 1, in characters.
type Finding struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"`
	// Object is the definition or pod, as kind namespace/name; empty where the file cannot be read so far.
	Object  string `json:"object,omitempty"`
	Message string `json:"message"`
	Fix     string `json:"fix"`
}

// Options are what the files do not tell.
type Options struct {
	// Isolation checks references as namespaceIsolation does; Exceptions are the namespaces that every pod may refer
	// to (config.Plugin.Exceptions).
	Isolation  bool
	Exceptions []string
	// MultusNamespace is where the default-network annotation looks (behaviour.md C50).
	MultusNamespace string
	// Complete says that the files are all there is: a network that none of them defines does not exist.
	Complete bool
}

// Run checks all files together: pods against the definitions, and definitions against each other. The findings are
// in the order of the files, and of the lines in each.
func Run(files []File, o Options) []Finding {
	l := &linter{options: o, networks: map[plan.Ref]*network{}}
	for i, f := range files {
		l.read(i, f)
	}
	for _, n := range l.order {
		l.checkNetwork(n)
	}
	l.compareNetworks()
	for _, p := range l.pods {
		l.checkPod(p)
	}
	slices.SortStableFunc(l.found, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Message, b.Message))
	})
	out := make([]Finding, 0, len(l.found))
	for _, f := range l.found {
		f.File = files[f.file].Name
		if !slices.Contains(out, f.Finding) {
			out = append(out, f.Finding)
		}
	}
	return out
}

type linter struct {
	options  Options
	networks map[plan.Ref]*network
	order    []*network
	pods     []*pod
	found    []placed
}

type placed struct {
	Finding
	file int
}

// object is where findings about one object go.
type object struct {
	*linter
	file int
	name string
}

// add notes a finding; the message is given as to fmt.Sprintf.
func (o object) add(at mark, s Severity, rule, fix, format string, args ...any) {
	o.found = append(o.found, placed{file: o.file, Finding: Finding{
		Line: at.line, Column: at.column, Severity: s, Rule: rule, Object: o.name, Message: fmt.Sprintf(format, args...),
		Fix: fix,
	}})
}
