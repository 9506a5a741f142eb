// withkeys runs another plugin with keys added to its configuration that today's Multus does not have, so that the
// comparison with it covers them.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// plugin is the path of the other plugin, and keys is a JSON object. The linker sets both.
var plugin, keys string

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
		if err := json.Unmarshal([]byte(keys), &conf); err != nil {
			return err
		}
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
