package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"multus/internal/lint"
)

// sarifSchema are parts of the schema of SARIF 2.1.0, by their place: the keys that each object must have, before the
// bar, and those that lint may write.
var sarifSchema = map[string]string{
	"":                       "version runs | $schema",
	"runs":                   "tool | columnKind results",
	"runs.tool":              "driver |",
	"runs.tool.driver":       "name | version rules",
	"runs.results":           "message | ruleId ruleIndex level locations",
	"runs.tool.driver.rules": "id | shortDescription help helpUri defaultConfiguration",
	"runs.tool.driver.rules.shortDescription":                  "text |",
	"runs.tool.driver.rules.help":                              "text |",
	"runs.tool.driver.rules.defaultConfiguration":              "| level",
	"runs.results.message":                                     "| text",
	"runs.results.locations":                                   "| physicalLocation logicalLocations",
	"runs.results.locations.physicalLocation":                  "| artifactLocation region",
	"runs.results.locations.physicalLocation.region":           "| startLine startColumn",
	"runs.results.locations.logicalLocations":                  "| fullyQualifiedName kind",
	"runs.results.locations.physicalLocation.artifactLocation": "| uri",
}

// sarifErrors returns what the schema does not permit in a value.
func sarifErrors(at string, value any) (out []string) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			out = append(out, sarifErrors(at, item)...)
		}
	case map[string]any:
		schema, ok := sarifSchema[at]
		required, optional, _ := strings.Cut(schema, "|")
		for key := range strings.FieldsSeq(required) {
			if v[key] == nil {
				out = append(out, fmt.Sprintf("%s has no %s", at, key))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if !ok || !slices.Contains(strings.Fields(required+" "+optional), key) {
				out = append(out, fmt.Sprintf("%s has %s", at, key))
			}
			out = append(out, sarifErrors(strings.TrimPrefix(at+"."+key, "."), v[key])...)
		}
	case string:
		key := at[strings.LastIndexByte(at, '.')+1:]
		u, err := url.Parse(v)
		if v == "" || key == "level" && v != "error" && v != "warning" || key == "columnKind" && v != "unicodeCodePoints" ||
			key == "uri" && err != nil || key == "helpUri" && (err != nil || !u.IsAbs()) {
			out = append(out, fmt.Sprintf("%s is %q", at, v))
		}
	case float64:
		if at != "runs.results.ruleIndex" && v < 1 {
			out = append(out, fmt.Sprintf("%s is %v", at, v))
		}
	}
	return out
}

// TestSARIF compares findings in SARIF with its schema, and every result with its finding.
func TestSARIF(t *testing.T) {
	t.Parallel()
	found := []lint.Finding{
		{
			File: "a b/ü:1.yaml", Line: 3, Column: 7, Severity: lint.Error, Rule: "mac", Object: "Pod a/b", Message: "m",
			Fix: "f",
		},
		{File: "/etc/n.yaml", Line: 1, Column: 1, Severity: lint.Warning, Rule: "yaml", Message: "m", Fix: "f"},
		{File: "-", Line: 1, Column: 1, Severity: lint.Warning, Rule: "address", Message: "m", Fix: "f"},
	}
	b, err := json.Marshal(sarif(found, "https://docs.example.com/lint"))
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]any
	if err := json.Unmarshal(b, &raw); err != nil {
		t.Fatal(err)
	}
	if errs := sarifErrors("", raw); len(errs) > 0 {
		t.Errorf("%q", errs)
	}
	var log sarifLog
	if err := json.Unmarshal(b, &log); err != nil {
		t.Fatal(err)
	}
	run := log.Runs[0]
	if log.Version != "2.1.0" || len(run.Results) != len(found) || len(run.Tool.Driver.Rules) != len(lint.Rules()) {
		t.Fatalf("%+v", log)
	}
	uris := []string{"a%20b/%C3%BC:1.yaml", "file:///etc/n.yaml", "-"}
	for i, r := range run.Results {
		at := r.Locations[0].Physical
		if rule := run.Tool.Driver.Rules[r.RuleIndex]; rule.ID != found[i].Rule || r.RuleID != rule.ID ||
			rule.HelpURI != "https://docs.example.com/lint#"+rule.ID {
			t.Errorf("%+v: %+v", found[i], rule)
		}
		if at.Artifact.URI != uris[i] || at.Region.Line != found[i].Line || at.Region.Column != found[i].Column ||
			r.Level != string(found[i].Severity) || r.Message.Text != "m; f" {
			t.Errorf("%+v: %+v", found[i], r)
		}
	}
	if u := fileURI("a:b.yaml"); u != "./a:b.yaml" {
		t.Errorf("%s is read as a URI with a scheme", u)
	}
	raw["runs"] = []any{map[string]any{"results": []any{map[string]any{"level": "fatal", "x": 1.0}}}}
	want := []string{"runs has no tool", "runs.results has no message", `runs.results.level is "fatal"`, "runs.results has x"}
	if errs := sarifErrors("", raw); !slices.Equal(errs, want) {
		t.Errorf("%q", errs)
	}
}

// TestGitHub checks the escapes of workflow commands.
func TestGitHub(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	printGitHub(&out, []lint.Finding{
		{
			File: "a,b:c%.yaml", Line: 3, Column: 7, Severity: lint.Error, Rule: "mac", Message: "100%\n::error::x",
			Fix: "f, g",
		},
	})
	want := "::error file=a%2Cb%3Ac%25.yaml,line=3,col=7,title=multusctl lint%3A mac::100%25%0A::error::x; f, g\n"
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
}
