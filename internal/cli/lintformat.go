package cli

import (
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"multus/internal/lint"
	"multus/internal/version"
)

// The formats of lint for programs that show findings at their lines. Both are small parts of their standards, and
// SARIF is a JSON document, so that no library is needed.
const (
	formatSARIF  = "sarif"
	formatGitHub = "github"
)

// sarifLog is a log in the Static Analysis Results Interchange Format 2.1.0 (OASIS), §3.13.
type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver sarifDriver `json:"driver"`
	} `json:"tool"`
	// ColumnKind is that of lint: a column is a character, not a unit of UTF-16 as by default.
	ColumnKind string        `json:"columnKind"`
	Results    []sarifResult `json:"results"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version"`
	Rules   []sarifRule `json:"rules"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifRule struct {
	ID               string    `json:"id"`
	ShortDescription sarifText `json:"shortDescription"`
	Help             sarifText `json:"help"`
	HelpURI          string    `json:"helpUri,omitempty"`
	Configuration    struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
}

type sarifResult struct {
	RuleID    string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations"`
}

type sarifLocation struct {
	Physical struct {
		Artifact struct {
			URI string `json:"uri"`
		} `json:"artifactLocation"`
		Region struct {
			Line   int `json:"startLine"`
			Column int `json:"startColumn"`
		} `json:"region"`
	} `json:"physicalLocation"`
	Logical []sarifObject `json:"logicalLocations,omitempty"`
}

// sarifObject is the Kubernetes object of a finding.
type sarifObject struct {
	Name string `json:"fullyQualifiedName"`
	Kind string `json:"kind"`
}

// sarif returns findings as SARIF. docs is the address of docs/lint.md, or "".
func sarif(found []lint.Finding, docs string) sarifLog {
	rules := lint.Rules()
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "multusctl lint", Version: version.Release()}
	for _, r := range rules {
		rule := sarifRule{
			ID: r.ID, ShortDescription: sarifText{"Finds " + r.About},
			Help: sarifText{"The rule " + r.ID + " finds " + r.About + ". An example is in docs/lint.md."},
		}
		rule.Configuration.Level = string(r.Severity)
		if docs != "" {
			rule.HelpURI = docs + "#" + r.ID
		}
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule)
	}
	for _, f := range found {
		var at sarifLocation
		at.Physical.Artifact.URI = fileURI(f.File)
		at.Physical.Region.Line, at.Physical.Region.Column = f.Line, f.Column
		if f.Object != "" {
			at.Logical = []sarifObject{{f.Object, "object"}}
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: f.Rule, RuleIndex: slices.IndexFunc(rules, func(r lint.Rule) bool { return r.ID == f.Rule }),
			Level: string(f.Severity), Message: sarifText{advice(f)}, Locations: []sarifLocation{at},
		})
	}
	return sarifLog{
		Schema:  "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
		Version: "2.1.0", Runs: []sarifRun{run},
	}
}

// fileURI returns the URI of a file, which is relative if the name is.
func fileURI(name string) string {
	u := url.URL{Path: filepath.ToSlash(name)}
	if strings.HasPrefix(u.Path, "/") {
		u.Scheme = "file"
	}
	return u.String()
}

// advice returns the message of a finding with the fix.
func advice(f lint.Finding) string { return f.Message + "; " + f.Fix }

// printGitHub prints findings as commands of a GitHub workflow.
func printGitHub(w io.Writer, found []lint.Finding) {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, f := range found {
		fmt.Fprintf(w, "::%s file=%s,line=%d,col=%d,title=%s::%s\n", f.Severity, property.Replace(f.File), f.Line, f.Column,
			property.Replace("multusctl lint: "+f.Rule), data.Replace(prefix(f.Object)+advice(f)))
	}
}
