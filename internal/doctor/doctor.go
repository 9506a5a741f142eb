// Package doctor finds out what is wrong with a node: one file for each check, each a value with a name and a function
// from a Node to findings. It looks and changes nothing. All that it sees of the node comes through Node, whose paths
// are below a directory, so that a node can be a real one, one that is mounted into a pod, or one that a test has made.
// Process edges (internal/cli, internal/host) may import it.
package doctor

import (
	"context"
	"strings"
)

// Severity says how bad a finding is.
type Severity string

// The severities: with an Error pods fail or miss networks; a Warning will become one, or wastes something.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is one thing that is wrong.
type Finding struct {
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// Message says what is wrong, Evidence how that is known, and Fix what to type or to change.
	Message  string `json:"finding"`
	Evidence string `json:"evidence"`
	Fix      string `json:"fix"`
}

// Check is one thing to look at.
type Check struct {
	Name string
	// About says what is looked at, for people.
	About string
	// Run returns what is wrong. An error says why it could not be looked at; it is no finding.
	Run func(ctx context.Context, n *Node) ([]Finding, error)
}

// Checks are all checks, in the order in which one fault explains the next.
func Checks() []Check {
	return []Check{
		distributionCheck, runtimeCheck, slotCheck, configurationCheck, pluginsCheck, readonlyCheck, netnsCheck, mountsCheck,
		daemonCheck, apiCheck,
		policiesCheck, kubeletCheck, mastersCheck, kernelCheck, ledgerCheck, reservationsCheck,
	}
}

// Report is what the doctor says of a node.
type Report struct {
	// Node is its name, "" if that is not known.
	Node         string   `json:"node,omitempty"`
	Distribution string   `json:"distribution"`
	Overlay      string   `json:"overlay"`
	Checks       []Result `json:"checks"`
	// Findings are those of all checks, in their order.
	Findings []Finding `json:"findings"`
}

// Result is the outcome of one check.
type Result struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// State is "ok", "found" or "unchecked"; Why says what kept the check from being made.
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
}

// The states of a check.
const (
	StateOK        = "ok"
	StateFound     = "found"
	StateUnchecked = "unchecked"
)

// Run makes all checks.
func Run(ctx context.Context, n *Node) *Report {
	d := n.distribution()
	r := &Report{Node: n.Name, Distribution: d.Name, Overlay: d.Overlay, Findings: []Finding{}}
	for _, c := range Checks() {
		found, err := c.Run(ctx, n)
		res := Result{Name: c.Name, About: c.About, State: StateOK}
		if err != nil {
			res.State, res.Why = StateUnchecked, strings.ReplaceAll(n.asNode(err.Error()), "\n", "; ")
		}
		if len(found) > 0 {
			res.State = StateFound
		}
		for _, f := range found {
			f.Check, f.Evidence = c.Name, n.asNode(f.Evidence)
			r.Findings = append(r.Findings, f)
		}
		r.Checks = append(r.Checks, res)
	}
	return r
}
