// Package lint checks network definitions and pods before they are applied: its input is bytes, and its output
// findings. It reads no files and sends no requests, and it does not judge what the given files do not show. What ADD
// refuses is decided by the planner (plan.Resolver), to which lint gives the objects of the files; lint finds the
// position. The other rules are about what plugins refuse, and advice. The process edges (internal/cli, internal/host)
// may import it.
package lint

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"multus/internal/config"
	"multus/internal/engine/plan"
)

// Severity is the severity of a finding.
type Severity string

// The severities. An Error fails a pod. A Warning probably is not what was intended.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// File is a YAML or JSON file with any number of documents.
type File struct {
	Name string
	Data []byte
}

// Finding is one problem and its position. Line and Column start at 1 and count characters.
type Finding struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"`
	// Object is the definition or pod, as kind namespace/name. It is empty if the file is invalid at that point.
	Object  string `json:"object,omitempty"`
	Message string `json:"message"`
	Fix     string `json:"fix"`
	// Path is the value of the object in which Line and Column are, such as spec.config. Only Review sets it. Line is 0
	// if the finding is about the value as a whole.
	Path  string `json:"-"`
	index int    // of the file
}

// Options are settings that the files do not contain.
type Options struct {
	// Config is the configuration of Multus in the cluster, or nil for the defaults. Its networks are not used, because
	// they are in files of nodes.
	Config *config.Plugin
	// Complete reports whether the files have all definitions: a network that none of them defines does not exist.
	Complete bool
	// Disabled are the IDs of rules that do not apply.
	Disabled []string
	// Severities are the severities of the findings of rules, by their ID, instead of those that they have by default.
	Severities map[string]Severity
}

// plugin returns the configuration with which the planner resolves pods.
func (o Options) plugin() *config.Plugin {
	var c config.Plugin
	if o.Config != nil {
		c = *o.Config
	}
	c.CNIVersion, c.Name, c.Delegates = "1.0.0", "multus", []json.RawMessage{[]byte(standIn)}
	c.ClusterNetwork, c.DefaultNetworks, c.AuxiliaryChain, c.RuntimeConfig = "", nil, "", nil
	c.MultusNamespace = cmp.Or(c.MultusNamespace, config.DefaultMultusNamespace)
	return &c
}

// Ignore is the annotation of an object with the IDs of rules, separated by commas, that do not apply to it.
const Ignore = "lint.multus-cni.io/ignore"

// Run checks all files together: pods against the definitions, and definitions against each other. The findings are in
// the order of the files and their lines.
func Run(files []File, o Options) []Finding {
	l := &linter{options: o, networks: map[plan.Ref]*network{}}
	for i, f := range files {
		l.read(i, f)
	}
	l.plan()
	l.apply()
	out := make([]Finding, 0, len(l.found))
	seen := map[Finding]bool{}
	for _, f := range l.found {
		f.File = files[f.index].Name
		if !seen[f] {
			out = append(out, f)
		}
		seen[f] = true
	}
	return out
}

// apply applies the rules, and sorts the findings by their positions.
func (l *linter) apply() {
	for _, rule := range Rules() {
		if slices.Contains(l.options.Disabled, rule.ID) {
			continue
		}
		for _, run := range rule.runs {
			run(&reporter{l, rule})
		}
	}
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Message, b.Message))
	})
}

// linter has what was read from the files, in their order, and the findings.
type linter struct {
	options  Options
	objects  []*object
	defined  []*network
	networks map[plan.Ref]*network
	pods     []*pod
	refused  []*refused
	found    []Finding
	// review reports whether an object of a cluster is checked and not files. Then unjudged has the networks that could
	// not be looked up, and counts the numbers of findings.
	review   bool
	unjudged map[plan.Ref]bool
	counts   map[counted]int
}

// reporter collects the findings of one rule.
type reporter struct {
	*linter
	rule Rule
}

// add adds a finding with the severity of the rule. The message is formatted as by fmt.Sprintf.
func (r *reporter) add(o *object, at mark, fix, format string, args ...any) {
	r.find(r.rule.Severity, o, at, fix, fmt.Sprintf(format, args...))
}

// warn adds a warning of a rule whose other findings are errors.
func (r *reporter) warn(o *object, at mark, fix, format string, args ...any) {
	r.find(Warning, o, at, fix, fmt.Sprintf(format, args...))
}

func (r *reporter) find(s Severity, o *object, at mark, fix, message string) {
	if changed, ok := r.options.Severities[r.rule.ID]; ok {
		s = changed
	}
	if slices.Contains(o.ignored, r.rule.ID) || r.review && o.file == 0 && !r.count(s) {
		return
	}
	r.found = append(r.found, Finding{
		Line: at.line, Column: at.column, Severity: s, Rule: r.rule.ID, Object: o.String(), Message: message, Fix: fix,
		index: o.file,
	})
}

// counted are findings of one severity that are counted: of all rules, or of one.
type counted struct {
	severity Severity
	rule     string // "" for all
}

// count counts a finding, and reports whether it is within the limit. The first one of a rule always is, because the
// caller may judge the rules differently.
func (r *reporter) count(s Severity) bool {
	all, own := counted{severity: s}, counted{s, r.rule.ID}
	r.counts[all]++
	r.counts[own]++
	return r.counts[all] <= maxFound || r.counts[own] == 1
}
