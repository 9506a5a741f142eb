// Package doctor diagnoses a node. Each check has a file of its own: a name, and a function from a Node to findings.
// The checks change nothing. They access the node only through Node, whose paths are below a root directory, so that it
// can be a real node, one that is mounted into a pod, or one that a test has made. The process edges (internal/cli,
// internal/host) may import it.
package doctor

import (
	"context"
	"strings"
)

// Severity is the severity of a finding.
type Severity string

// The severities. An Error fails pods or leaves them without networks. A Warning may become an error, or wastes
// resources.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is one problem.
type Finding struct {
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// Message is the problem, Evidence shows it, and Fix is the command or change that solves it.
	Message  string `json:"finding"`
	Evidence string `json:"evidence"`
	Fix      string `json:"fix"`
}

// Check is one check of a node.
type Check struct {
	Name string
	// About describes the check for users.
	About string
	// Run returns the findings. An error means that the check was not possible, and is no finding.
	Run func(ctx context.Context, n *Node) ([]Finding, error)
}

// Checks returns all checks. Their order is that of causes: the faults that explain others come first.
func Checks() []Check {
	return []Check{
		distributionCheck, runtimeCheck, confFileCheck, configurationCheck, pluginsCheck, readonlyCheck, netnsCheck,
		mountsCheck,
		daemonCheck, hotPlugCheck, apiCheck,
		policiesCheck, admissionCheck, kubeletCheck, claimsCheck, mastersCheck, kernelCheck, ledgerCheck,
		reservationsCheck,
	}
}

// Report is the diagnosis of a node.
type Report struct {
	// Node is the node's name, or "" if it is unknown.
	Node         string   `json:"node,omitempty"`
	Distribution string   `json:"distribution"`
	Overlay      string   `json:"overlay"`
	Checks       []Result `json:"checks"`
	// Findings are the findings of all checks, in their order.
	Findings []Finding `json:"findings"`
}

// Result is the outcome of one check.
type Result struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// State is "ok", "found" or "unchecked". Why is the reason for "unchecked".
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
}

// The states of a check.
const (
	StateOK        = "ok"
	StateFound     = "found"
	StateUnchecked = "unchecked"
)

// Run runs all checks.
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
