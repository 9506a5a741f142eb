// concurrent runs another plugin with attachConcurrency added to its configuration. So the comparison with today's
// Multus, which does not have the key, also covers concurrent attachments.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// plugin is the path of the other plugin. The linker sets it.
var plugin string

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	conf := map[string]json.RawMessage{}
	if json.Unmarshal(stdin, &conf) == nil { // otherwise keep the input of the scenario, which tests bad input
		conf["attachConcurrency"] = json.RawMessage("4")
		if stdin, err = json.Marshal(conf); err != nil {
			return err
		}
	}
	c := exec.Command(plugin, os.Args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), os.Stdout, os.Stderr
	if err := c.Run(); c.ProcessState == nil {
		return err
	}
	os.Exit(c.ProcessState.ExitCode())
	return nil
}
