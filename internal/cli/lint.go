package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/lint"
)

// lintOutput is what `lint -o json` prints.
type lintOutput struct {
	Findings []lint.Finding `json:"findings"`
}

// ruleOutput is what `lint --rules -o json` prints.
type ruleOutput struct {
	Rules []lint.Rule `json:"rules"`
}

// lintFlags are the flags of lint.
type lintFlags struct {
	files, ignored   []string
	severities       map[string]string
	conf, docs       string
	isolation, whole bool
	rules            bool
}

func (a *app) lintCommand() *cobra.Command {
	f := &lintFlags{}
	c := &cobra.Command{
		Use:   "lint -f FILE…",
		Short: "Check network definitions and pods before they are applied",
		Long: "Check network definitions, pods and workloads, with line and column. Files are checked together: pods " +
			"against the\n" +
			"definitions, and definitions against each other. lint does not contact a cluster.\n\n" +
			"--rules lists the rules. A rule does not apply if --ignore names it, or, for one object, if the annotation\n" +
			lint.Ignore + " of the object does. That changes nothing in what Multus refuses.\n\n" +
			"Exit code: 0 nothing found, 1 errors or warnings found, 2 wrong use. For continuous integration, -o github\n" +
			"prints annotations of GitHub workflows, and -o sarif a log in SARIF 2.1.0.",
		Example: "  multusctl lint -f networks.yaml -f pod.yaml\n  multusctl lint -f examples/ --complete\n  kubectl get " +
			"net-attach-def,pods -A -o yaml | multusctl lint -f -\n" +
			"  multusctl lint -f deploy/ --ignore host-network --severity unknown-key=error -o sarif",
		Args:              cobra.ArbitraryArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFormat(f.formats()) },
		RunE: func(_ *cobra.Command, args []string) error {
			if f.rules {
				return a.printRules()
			}
			f.files = append(f.files, args...)
			return a.lint(f)
		},
	}
	flags := c.Flags()
	flags.StringArrayVarP(&f.files, "filename", "f", nil,
		"`file`, directory (not those below it), or - for standard input; may be repeated")
	flags.StringVar(&f.conf, "config", "",
		"configuration `file` of CNI or the daemon: lint uses its limits for pods and definitions, such as namespaceIsolation")
	flags.BoolVar(&f.isolation, "namespace-isolation", false, "check as with namespaceIsolation")
	flags.BoolVar(&f.whole, "complete", false,
		"report a network that none of the files defines as an error")
	flags.StringSliceVar(&f.ignored, "ignore", nil, "`rules` that do not apply, by their ID; --disable is the same")
	flags.StringToStringVar(&f.severities, "severity", nil,
		"`rule=severity` of all findings of a rule, error or warning; may be repeated")
	flags.Lookup("severity").DefValue = "" // it has none
	flags.StringVar(&f.docs, "docs-url", "",
		"`address` of docs/lint.md, to which the rules in the output of -o sarif refer")
	flags.BoolVar(&f.rules, "rules", false, "list the rules, and check nothing")
	flags.StringVarP(&a.output, "output", "o", "table", "`format`: table, json, yaml, sarif or github")
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "disable" {
			name = "ignore"
		}
		return pflag.NormalizedName(name)
	})
	must(c.RegisterFlagCompletionFunc("output",
		cobra.FixedCompletions((&lintFlags{}).formats(), cobra.ShellCompDirectiveNoFileComp)))
	return c
}

// formats returns the formats of findings, or of the list of rules.
func (f *lintFlags) formats() []string {
	if f.rules {
		return formats
	}
	return append(slices.Clone(formats), formatSARIF, formatGitHub)
}

// options returns the options of package lint.
func (f *lintFlags) options() (lint.Options, error) {
	o := lint.Options{
		Config: &config.Plugin{}, Complete: f.whole, Disabled: f.ignored, Severities: map[string]lint.Severity{},
	}
	if err := checkRules(f.ignored); err != nil {
		return o, err
	}
	if err := checkRules(slices.Sorted(maps.Keys(f.severities))); err != nil {
		return o, err
	}
	for _, rule := range slices.Sorted(maps.Keys(f.severities)) {
		s := lint.Severity(f.severities[rule])
		if s != lint.Error && s != lint.Warning {
			return o, usageError{fmt.Errorf("--severity %s=%s: want error or warning", rule, s)}
		}
		o.Severities[rule] = s
	}
	if u, err := url.Parse(f.docs); f.docs != "" && (err != nil || !u.IsAbs() || u.Fragment != "") {
		return o, usageError{fmt.Errorf("--docs-url %q: want an absolute URL without a fragment", f.docs)}
	}
	if f.conf != "" {
		var err error
		if o.Config, err = readPluginConfig(f.conf); err != nil {
			return o, err
		}
	}
	o.Config.NamespaceIsolation = o.Config.NamespaceIsolation || f.isolation
	return o, nil
}

// lint checks the files and prints the findings.
func (a *app) lint(f *lintFlags) error {
	if len(f.files) == 0 {
		return usageError{fmt.Errorf("no files: give -f FILE, -f DIRECTORY or -f - for standard input")}
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	in, err := a.readFiles(f.files)
	if err != nil {
		return err
	}
	found := lint.Run(in, o)
	switch a.output {
	case formatSARIF:
		a.output = "json" // SARIF is a document in JSON
		err = a.print(sarif(found, f.docs), nil)
	case formatGitHub:
		printGitHub(&printable{a.Stdout}, found)
	default:
		err = a.printLint(found, len(in))
	}
	if err == nil && len(found) > 0 {
		err = errFound
	}
	return err
}

// checkRules returns an error for an ID that is not that of a rule.
func checkRules(ids []string) error {
	for _, id := range ids {
		if !slices.ContainsFunc(lint.Rules(), func(r lint.Rule) bool { return r.ID == id }) {
			return usageError{fmt.Errorf("no rule %q: lint --rules lists them", id)}
		}
	}
	return nil
}

func (a *app) printRules() error {
	return a.print(ruleOutput{lint.Rules()}, func(w io.Writer) {
		table := [][]string{{"RULE", "SEVERITY", "FINDS"}}
		for _, r := range lint.Rules() {
			table = append(table, []string{r.ID, string(r.Severity), r.About})
		}
		columns(w, table...)
	})
}

// readPluginConfig reads the configuration of Multus from a file.
func readPluginConfig(file string) (*config.Plugin, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	conf, err := config.ParsePlugin(cniconf.PluginConfig(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return conf, nil
}

func (a *app) printLint(found []lint.Finding, files int) error {
	return a.print(lintOutput{found}, func(w io.Writer) {
		for _, f := range found {
			colour := yellow
			if f.Severity == lint.Error {
				colour = red
			}
			fmt.Fprintf(w, "%s:%d:%d: %s: %s [%s]\n    %s%s\n", f.File, f.Line, f.Column, a.paint(colour, string(f.Severity)),
				f.Message, f.Rule, prefix(f.Object), f.Fix)
		}
		if len(found) == 0 {
			fmt.Fprintf(w, "%d %s, nothing found\n", files, plural(files, "file"))
		}
	})
}

func prefix(object string) string {
	if object == "" {
		return ""
	}
	return object + ": "
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// readFiles reads files, the YAML and JSON files of directories, and standard input for "-".
func (a *app) readFiles(names []string) ([]lint.File, error) {
	var out []lint.File
	for _, name := range names {
		if name == "-" {
			b, err := io.ReadAll(a.Stdin)
			if err != nil {
				return nil, fmt.Errorf("read standard input: %w", err)
			}
			out = append(out, lint.File{Name: "-", Data: b})
			continue
		}
		paths, err := expand(name)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("read file: %w", err)
			}
			out = append(out, lint.File{Name: path, Data: b})
		}
	}
	return out, nil
}

// expand returns the files of a directory in the order of their names, or the file itself.
func expand(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var out []string
	for _, pattern := range []string{"*.yaml", "*.yml", "*.json"} {
		found, err := filepath.Glob(filepath.Join(name, pattern))
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", name, err)
		}
		out = append(out, found...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no .yaml, .yml or .json file in %s: subdirectories are not read, name them as well", name)
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(a, b) })
	return out, nil
}
