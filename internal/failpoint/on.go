//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled reports whether the build has points.
const Enabled = true

// action is what one point does at its n-th pass.
type action struct {
	name string
	pass int
	do   string
}

// armed returns the actions of the environment, which it reads once.
var armed = sync.OnceValue(func() []action {
	var out []action
	for _, item := range strings.Split(os.Getenv("MULTUS_FAILPOINT"), ",") {
		if item == "" {
			continue
		}
		a := action{pass: 1}
		item, a.do, _ = strings.Cut(item, "=")
		name, pass, counted := strings.Cut(item, ":")
		if a.name = name; counted {
			a.pass, _ = strconv.Atoi(pass)
		}
		out = append(out, a)
	}
	return out
})

// mu guards passes, which counts the passes of each point.
var (
	mu     sync.Mutex
	passes = map[string]int{}
)

// At marks a point.
func At(name string) {
	trace(name)
	mu.Lock()
	passes[name]++
	n := passes[name]
	mu.Unlock()
	for _, a := range armed() {
		if a.name == name && a.pass == n {
			a.act()
		}
	}
}

func (a action) act() {
	switch a.do {
	case "", "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	default:
		if d, err := time.ParseDuration(a.do); err == nil {
			time.Sleep(d)
		}
	}
}

// Skip reports whether the step of that name must be omitted, to check that a test detects the omission.
func Skip(name string) bool {
	for _, a := range armed() {
		if a.name == name && a.do == "skip" {
			return true
		}
	}
	return false
}

// times is the file of MULTUS_FAILPOINT_TIMES, or nil.
var times = sync.OnceValue(func() *os.File {
	path := os.Getenv("MULTUS_FAILPOINT_TIMES")
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil
	}
	return f // it stays open, because an open for each point would take longer than many of the steps between them
})

// processorTime returns the processor time of this process, or of the children that it has waited for, in nanoseconds.
func processorTime(who int) int64 {
	var r syscall.Rusage
	_ = syscall.Getrusage(who, &r) // it fails for an unknown who only
	return r.Utime.Nano() + r.Stime.Nano()
}

// trace appends the name with one write, so that lines of several processes do not mix.
func trace(name string) {
	if f := times(); f != nil {
		_, _ = fmt.Fprintln(f, name, time.Now().UnixNano(), processorTime(syscall.RUSAGE_SELF),
			processorTime(syscall.RUSAGE_CHILDREN))
	}
	path := os.Getenv("MULTUS_FAILPOINT_TRACE")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(name + "\n")
	_ = f.Close()
}
