package cli

import (
	"context"
	"flag"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write the expected output of testdata/script anew")

// TestMain lets scripts run multusctl, under both of its names.
func TestMain(m *testing.M) {
	run := func() {
		os.Exit(Run(context.Background(),
			Env{Args: os.Args, Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
	}
	testscript.Main(m, map[string]func(){"multusctl": run, "kubectl-multus": run, completer: run})
}

// TestScript runs the command lines of testdata/script and compares their output. Each script covers one command.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true,
		RequireUniqueNames: true,
	})
}
