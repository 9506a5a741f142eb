package cli

import (
	"strings"
	"testing"
)

// TestUsage checks that a wrong command line ends with exit code 2 before anything is read, requested or done. The
// paths that it would use do not exist.
func TestUsage(t *testing.T) {
	t.Parallel()
	const xml = `unknown output format "xml": want table, json, yaml`
	for _, tc := range []struct {
		verb, args, want string
	}{
		{"attach", "a/b", "no network namespace: give --netns PATH"},
		{"detach", "a/b", "no network namespace: give --netns PATH"},
		{"attach", "--netns /nowhere", "accepts 1 arg(s), received 0"},
		{"attach", "a/b/c --netns /nowhere", `"a/b/c" is not a pod name: want NAMESPACE/NAME`},
		{"attach pod", "", "accepts 1 arg(s), received 0"},
		{"attach pod", "a/b", "no network: give --network NAME"},
		{"attach pod", "a/b/c --network n", `"a/b/c" is not a pod name: want NAMESPACE/NAME`},
		{"attach pod", "a/b --network a/b/c", `--network "a/b/c" is not a network: want NAME or NAMESPACE/NAME`},
		{"attach pod", "a/b --network n@i", `--network "n@i" is not a network: want NAME or NAMESPACE/NAME`},
		{
			"attach pod", "a/b --network n --interface a/b",
			`--interface "a/b": interface name contains / or : or whitespace characters `,
		},
		{
			"attach pod", "a/b --network n --timeout 0s",
			"--timeout must be greater than 0; with --no-wait the command does not wait",
		},
		{"detach pod", "a/b", "no network: give --network NAME"},
		{"detach pod", "a/b --network n -o xml", xml},
		{"explain", "", "name a pod, or give -f FILE"},
		{"explain", "pod", "name a pod, or give -f FILE"},
		{"explain", "pod --node worker-3", "name a pod, or give -f FILE"},
		{"explain", "a/b c/d", "too many arguments: want pod NAMESPACE/NAME"},
		{"explain", "pod a/b/c", `"a/b/c" is not a pod name: want NAMESPACE/NAME`},
		{"explain", "pod a/b --device x", `--device "x": want RESOURCE=ID`},
		{"status", "a/b/c --state-dir /proc/self/environ", `"a/b/c" is not a pod name: want NAMESPACE/NAME`},
		{"attach", "a/b --netns /nowhere --state-dir /nowhere -o xml", xml},
		{"detach", "a/b --netns /nowhere --state-dir /nowhere -o xml", xml},
		{"gc", "--state-dir /nowhere -o xml", xml},
		{"ledger ls", "-o xml", xml},
		{"lint", "-f /nowhere -o xml", xml + ", sarif, github"},
		{"lint", "-f /nowhere --ignore speling", `no rule "speling": lint --rules lists them`},
		{"lint", "-f /nowhere --severity speling=error", `no rule "speling": lint --rules lists them`},
		{"lint", "-f /nowhere --severity mac=off", "--severity mac=off: want error or warning"},
		{
			"lint", "-f /nowhere --severity mac",
			`invalid argument "mac" for "--severity" flag: mac must be formatted as key=value`,
		},
		{"lint", "-f /nowhere --docs-url docs/lint.md", `--docs-url "docs/lint.md": want an absolute URL without a fragment`},
		{"lint", "--rules -o sarif", `unknown output format "sarif": want table, json, yaml`},
		{"lint", "-f /nowhere --disable mac,speling", `no rule "speling": lint --rules lists them`},
		{"lint", "--rules -o xml", xml},
		{"graph", "-o json", "graph has --format, not --output"},
		{"graph", "-o xml", "graph has --format, not --output"},
	} {
		t.Run(tc.verb+" "+tc.args, func(t *testing.T) {
			t.Parallel()
			code, out, errs := call(t, nil, strings.Fields(tc.verb+" "+tc.args)...)
			if want := "error: " + tc.want + "\n\nSee 'multusctl " + tc.verb + " --help'.\n"; code != Usage || out != "" ||
				errs != want {
				t.Errorf("%d %q %q, want %q", code, out, errs, want)
			}
		})
	}
}

// TestHelp checks that no flag shows two defaults, and that the example of lint names files of this repository.
func TestHelp(t *testing.T) {
	t.Parallel()
	root := Command(Env{
		Args: []string{"multusctl"}, Getenv: func(string) string { return "" }, Stdout: &strings.Builder{},
		Stderr: &strings.Builder{},
	})
	for _, c := range everyCommand(root) {
		for line := range strings.Lines(c.LocalFlags().FlagUsages()) {
			if strings.Count(line, "(default") > 1 {
				t.Errorf("%s: %s", c.CommandPath(), line)
			}
		}
	}
	lint, _, err := root.Find([]string{"lint"})
	if err != nil {
		t.Fatal(err)
	}
	const example = "lint -f examples/ --complete"
	if !strings.Contains(lint.Example, "multusctl "+example+"\n") {
		t.Errorf("not %q in\n%s", example, lint.Example)
	}
	if code, out, errs := call(t, nil,
		strings.Fields(strings.ReplaceAll(example, "examples", "../../examples"))...); code != OK {
		t.Errorf("%d %s%s", code, out, errs)
	}
}
