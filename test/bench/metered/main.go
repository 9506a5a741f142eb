// metered replaces a plugin. It runs the real plugin, which is in the folder "real" beside it, and appends one line to
// the file "used" there: the processor time of the plugin with the children that it waited for, and its own, in
// nanoseconds. It is used only to measure the shares of processor time.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

func main() {
	self, err := os.Executable()
	if err == nil {
		err = run(filepath.Join(filepath.Dir(self), "real"), filepath.Base(self))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir, name string) error {
	c := exec.Command(filepath.Join(dir, name))
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	var plugin, own syscall.Rusage
	err = errors.Join(err, syscall.Getrusage(syscall.RUSAGE_CHILDREN, &plugin))
	used, uerr := os.OpenFile(filepath.Join(dir, "used"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if uerr != nil {
		return errors.Join(err, uerr)
	}
	err = errors.Join(err, syscall.Getrusage(syscall.RUSAGE_SELF, &own))
	_, werr := fmt.Fprintln(used, cpu(&plugin), cpu(&own))
	return errors.Join(err, werr, used.Close())
}

func cpu(u *syscall.Rusage) int64 { return u.Utime.Nano() + u.Stime.Nano() }
