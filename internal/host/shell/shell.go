// Package shell emulates the command lines that manifests of other projects run in the image of Multus. The image has
// no shell: the package serves the names sh, cp, rm and cat. It accepts exactly the command lines of known manifests,
// so that they work with another image name, and refuses every other one with a hint. Only cmd/multus-daemon imports
// it.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"multus/internal/fault"
)

// Names are the program names that Run accepts.
var Names = []string{"sh", "cp", "rm", "cat"}

// ErrRefused is returned for a command line that is not accepted. Nothing was done.
var ErrRefused = errors.New("the image of multus has no shell and no tools")

// hint says what to do instead.
const hint = "it understands the lines of known manifests only (docs/upgrade.md); to install the plugins, use " +
	"\"/install_multus -d DIR -t thick\" or thin; to look at a node, \"/usr/src/multus-cni/bin/multusctl doctor\"; to " +
	"remove Multus, " +
	"\"/usr/src/multus-cni/bin/multus-daemon uninstall\""

// maxScript limits the size of a script. Those of manifests have a few lines.
const maxScript = 4 << 10

// Shell is the environment in which command lines run.
type Shell struct {
	// Root is prepended to every path. It is for tests.
	Root           string
	Stdout, Stderr io.Writer
	// Container writes a line to the log of the container, because the output of a hook does not get there. It may be nil.
	Container func(line string)
}

// Run runs one command line, which the container runtime passes as the name of the program and its arguments. The whole
// command line is checked before anything is done.
func (s *Shell) Run(ctx context.Context, args []string) error {
	name := filepath.Base(args[0])
	if name != "sh" {
		c, ok := s.parse(append([]string{name}, args[1:]...))
		if !ok {
			return refused(args)
		}
		return c.run(ctx)
	}
	if len(args) != 3 || args[1] != "-c" || len(args[2]) > maxScript {
		return refused(args)
	}
	script, ok := s.script(args[2])
	if !ok {
		return refused(args)
	}
	for _, c := range script {
		if err := c.run(ctx); err != nil && !c.ignore {
			return err
		}
	}
	return nil
}

func refused(args []string) error {
	line := fault.Clip(strings.Join(args, " "), maxLine)
	return fmt.Errorf("%w: %q is not understood; %s", ErrRefused, line, hint)
}

// maxLine limits the length of a command line in an error.
const maxLine = 300

// command is one parsed command.
type command struct {
	run func(context.Context) error
	// ignore reports whether a failure is ignored, because of "|| true".
	ignore bool
}

// script parses the lines of a script: commands that are joined by &&, and comments between the lines.
func (s *Shell) script(text string) ([]command, bool) {
	var out []command
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		line, ignore := strings.CutSuffix(line, "|| true")
		for part := range strings.SplitSeq(line, "&&") {
			c, ok := s.parse(strings.Fields(part))
			if !ok {
				return nil, false
			}
			c.ignore = ignore
			out = append(out, c)
		}
	}
	return out, len(out) > 0
}

// special are the characters that a shell would interpret. The star is not among them, because it is accepted in two
// places.
const special = "$`\"'\\;&|<>(){}[]?~!#\n\x00"

// parse parses one command.
func (s *Shell) parse(words []string) (command, bool) {
	if len(words) < 2 || slices.ContainsFunc(words, func(w string) bool { return strings.ContainsAny(w, special) }) {
		return command{}, false
	}
	var flags, paths []string
	for _, w := range words[1:] {
		if strings.HasPrefix(w, "-") {
			flags = append(flags, w)
			continue
		}
		if !filepath.IsAbs(w) || slices.Contains(strings.Split(w, "/"), "..") {
			return command{}, false
		}
		paths = append(paths, w)
	}
	var run func(context.Context) error
	switch words[0] {
	case "cp":
		run = s.copy(flags, paths)
	case "rm":
		run = s.remove(flags, paths)
	case "cat":
		run = s.show(flags, paths)
	}
	return command{run: run}, run != nil
}

// at returns the file system path of a path in a command line.
func (s *Shell) at(path string) string { return filepath.Join(s.Root, path) }
