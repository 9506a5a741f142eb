package daemon

import (
	"io"
	"strings"
	"testing"
)

// TestExample checks that the example of the help text parses, and that it installs the plugin which the configuration
// it writes calls.
func TestExample(t *testing.T) {
	t.Parallel()
	root := Command(func(string) string { return "" }, io.Discard)
	run, _, err := root.Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(strings.ReplaceAll(run.Example, "\\\n", ""))
	cmd, flags, err := root.Find(words[1:])
	if err != nil || cmd != run {
		t.Fatalf("%q: %v", words, err)
	}
	if err := cmd.ParseFlags(flags); err != nil {
		t.Fatal(err)
	}
	if dir := cmd.Flags().Lookup("install-dir").Value.String(); dir != "/opt/cni/bin" || cmd.Flags().NArg() != 0 {
		t.Errorf("%q installs into %q", words, dir)
	}
}
