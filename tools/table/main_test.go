package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTable checks the table of a run with all kinds of results, and the errors for results that cannot be read.
func TestTable(t *testing.T) {
	t.Parallel()
	const results = `{"Action":"start","Package":"multus/test/e2e"}
{"Action":"run","Package":"multus/test/e2e","Test":"TestPlain"}
{"Action":"attr","Package":"multus/test/e2e","Test":"TestPlain","Key":"note","Value":"1.3 times"}
{"Action":"pass","Package":"multus/test/e2e","Test":"TestPlain","Elapsed":1.25}
{"Action":"run","Package":"multus/test/e2e","Test":"TestNode"}
{"Action":"run","Package":"multus/test/e2e","Test":"TestNode/reboot"}
{"Action":"run","Package":"multus/test/e2e","Test":"TestNode/reboot/step"}
{"Action":"pass","Package":"multus/test/e2e","Test":"TestNode/reboot/step","Elapsed":1}
{"Action":"fail","Package":"multus/test/e2e","Test":"TestNode/reboot","Elapsed":2}
{"Action":"run","Package":"multus/test/e2e","Test":"TestNode/thin"}
{"Action":"skip","Package":"multus/test/e2e","Test":"TestNode/thin","Elapsed":0}
{"Action":"fail","Package":"multus/test/e2e","Test":"TestNode","Elapsed":3}
{"Action":"run","Package":"multus/test/e2e","Test":"TestSlow"}
{"Action":"fail","Package":"multus/test/e2e","Elapsed":5}
`
	file := filepath.Join(t.TempDir(), "results.json")
	if err := os.WriteFile(file, []byte(results), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run([]string{file}, &out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"e2e TestPlain ok 1.2 1.3 times",
		"e2e TestNode FAILED 3.0",
		"e2e TestNode/reboot FAILED 2.0",
		"e2e TestNode/thin skipped 0.0",
		"e2e TestSlow CUT OFF 0.0",
		"1 scenarios ok, 2 failed, 1 skipped, 1 cut off",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, args := range [][]string{nil, {filepath.Join(t.TempDir(), "none")}} {
		if err := run(args, &out); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	if err := os.WriteFile(file, []byte("no JSON\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{file}, &out); err == nil {
		t.Error("a file without results is accepted")
	}
}
