package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

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

func (a *app) lintCommand() *cobra.Command {
	var files, disabled []string
	var conf string
	var isolation, complete, rules bool
	c := &cobra.Command{
		Use:   "lint -f FILE…",
		Short: "Check network definitions and pods before they are applied",
		Long: "Check network definitions, pods and workloads, with line and column. Files are checked together: pods " +
			"against the\n" +
			"definitions, and definitions against each other. lint does not contact a cluster. The annotation\n" +
			lint.Ignore + " of an object has the IDs of rules that do not apply to it.",
		Example: "  multusctl lint -f networks.yaml -f pod.yaml\n  multusctl lint -f examples/ --complete\n  kubectl get " +
			"net-attach-def,pods -A -o yaml | multusctl lint -f -",
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if rules {
				return a.printRules()
			}
			files = append(files, args...)
			if len(files) == 0 {
				return usageError{fmt.Errorf("no files: give -f FILE, -f DIRECTORY or -f - for standard input")}
			}
			if err := checkRules(disabled); err != nil {
				return err
			}
			o := lint.Options{Config: &config.Plugin{}, Complete: complete, Disabled: disabled}
			if conf != "" {
				var err error
				if o.Config, err = readPluginConfig(conf); err != nil {
					return err
				}
			}
			o.Config.NamespaceIsolation = o.Config.NamespaceIsolation || isolation
			in, err := a.readFiles(files)
			if err != nil {
				return err
			}
			return a.printLint(lint.Run(in, o), len(in))
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil,
		"`file`, directory (not those below it), or - for standard input; may be repeated")
	c.Flags().StringVar(&conf, "config", "",
		"configuration `file` of CNI or the daemon: lint uses its limits for pods and definitions, such as namespaceIsolation")
	c.Flags().BoolVar(&isolation, "namespace-isolation", false, "check as with namespaceIsolation")
	c.Flags().BoolVar(&complete, "complete", false,
		"report a network that none of the files defines as an error")
	c.Flags().StringSliceVar(&disabled, "disable", nil, "`rules` that do not apply, by their ID")
	c.Flags().BoolVar(&rules, "rules", false, "list the rules, and check nothing")
	return c
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
	err := a.print(lintOutput{found}, func(w io.Writer) {
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
	if err == nil && len(found) > 0 {
		err = errFound
	}
	return err
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
