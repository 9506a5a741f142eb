// Package cli is the command line of multusctl. Each command has a file of its own, which parses the flags, calls the
// package that does the work, and prints the result. The package makes no decisions about networks. Only cmd/multusctl
// imports it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/fault"
	"multus/internal/version"
)

// Exit codes. They are part of the interface.
const (
	// OK: the command succeeded and found no problem.
	OK = 0
	// Found: the command found a problem, or failed.
	Found = 1
	// Usage: the command line is wrong.
	Usage = 2
)

// exitCode ends a command that has already printed everything.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// errFound ends a command that has already printed its findings.
const errFound = exitCode(Found)

// completer is the name under which kubectl runs this program for completions of its plugin multus.
const completer = "kubectl_complete-multus"

// usageError is a mistake in the command line.
type usageError struct{ error }

// Env is the environment of a command.
type Env struct {
	// Args are the arguments of the process, starting with its name.
	Args   []string
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// UID is the effective user ID of the process.
	UID int
	// OS is the operating system, as runtime.GOOS has it. "" is linux.
	OS string
	// Terminal reports whether Stdout is a terminal, so that output may be coloured.
	Terminal bool
}

// program returns the name of the program, without the extension of Windows.
func (e *Env) program() string { return strings.TrimSuffix(filepath.Base(e.Args[0]), ".exe") }

// Run runs one command line and returns the exit code.
func Run(ctx context.Context, env Env) int {
	cmd := Command(env) //nolint:contextcheck // cobra hands ctx on to the verbs
	args := env.Args[1:]
	if env.program() == completer {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	cmd.SetArgs(args)
	verb, err := cmd.ExecuteContextC(ctx)
	var usage usageError
	var printed exitCode
	switch {
	case err == nil:
		return OK
	case errors.As(err, &printed):
		return int(printed)
	case errors.As(err, &usage):
		fmt.Fprintf(&printable{env.Stderr}, "error: %v\n\nSee '%s --help'.\n", err, verb.CommandPath())
		return Usage
	}
	if (&app{Env: env}).isLinux() { // on a laptop, the file is the user's own
		err = fault.AsRoot(err, env.UID)
	}
	fmt.Fprintln(&printable{env.Stderr}, "error:", err)
	return Found
}

// app is the common part of all commands.
type app struct {
	Env
	output string
	source sourceFlags
}

// Command returns the command line: multusctl, or `kubectl multus` if the program is called kubectl-multus.
func Command(env Env) *cobra.Command {
	a := &app{Env: env}
	root := &cobra.Command{
		Use:   "multusctl",
		Short: "Explain, check and inspect what Multus does",
		Long: "Explain what Multus would do for a pod, check network definitions before they are applied, and find out " +
			"what is\n" +
			"wrong with a node. Exit code: 0 nothing found, 1 something found or failed, 2 wrong use.",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		// A command that overrides this check, as graph does, has no --output.
		PersistentPreRunE: a.checkOutput,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	if name := env.program(); strings.HasPrefix(name, "kubectl-") || strings.HasPrefix(name, "kubectl_") {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl multus"}
	}
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetIn(env.Stdin)
	root.SetVersionTemplate("multusctl: {{.Version}}\n")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "`format`: table, json or yaml")
	root.AddCommand(
		a.attachCommand(), a.checkCommand(), a.detachCommand(), a.devicesCommand(), a.doctorCommand(), a.explainCommand(),
		a.gcCommand(), a.graphCommand(),
		a.ledgerCommand(), a.lintCommand(), a.networksCommand(), a.statusCommand(), a.versionCommand(),
	)
	for _, c := range everyCommand(root) {
		strict(c)
		if !a.isLinux() {
			a.nodeOnly(strings.TrimPrefix(c.CommandPath(), root.CommandPath()+" "), c)
		}
	}
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	return root
}

// strict turns each mistake in the use of a command into a usageError.
func strict(c *cobra.Command) {
	args := c.Args
	if args == nil {
		args = cobra.NoArgs
	}
	c.Args = func(cmd *cobra.Command, given []string) error {
		if err := args(cmd, given); err != nil {
			return usageError{err}
		}
		return nil
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
}

func everyCommand(root *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{root}
	for _, c := range root.Commands() {
		out = append(out, everyCommand(c)...)
	}
	return out
}

// must panics on an error that only a bug can cause, such as a completion for a flag that does not exist.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// group returns a command that only has subcommands.
func group(c *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	c.AddCommand(verbs...)
	return c
}
