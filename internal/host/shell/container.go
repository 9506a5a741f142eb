package shell

import (
	"fmt"
	"os"
)

// ContainerLog writes a line to the log of the container: to the standard error of its first process, if that is this
// very program. With hostPID the first process is the node's, and nothing is written.
func ContainerLog(line string) {
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return
	}
	first, err := os.Stat("/proc/1/exe")
	if err != nil || !os.SameFile(own, first) {
		return
	}
	f, err := os.OpenFile("/proc/1/fd/2", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	fmt.Fprintln(f, line)
	_ = f.Close() // there is nowhere to tell it
}
