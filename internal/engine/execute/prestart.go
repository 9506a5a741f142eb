package execute

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"

	"multus/internal/engine/ledger"
	"multus/internal/failpoint"
)

// A delegate does nothing before it has read its standard input. Its process can therefore be started while the work
// before it is still in progress: the record is written, or the delegate before it works. It gets its input when its
// turn comes, so that the order of all effects stays the same. If this process is killed meanwhile, the delegate reads
// the end of its input and fails by itself.

// ahead is the delegate that was started before its turn.
type ahead struct {
	path    string
	environ []string // sorted
	process *process
}

// Prestart starts the first delegate of a verb, ADD or DEL, for an attachment. The verb gives it its input. Without a
// verb, Close ends it. Prestart does nothing if a delegate was started ahead already, or if it would not help.
func (r *Runner) Prestart(verb string, of *ledger.Record, a *ledger.Attachment) {
	e := r.exec
	if !e.Prestart || e.ahead != nil {
		return
	}
	chain := chainOf(verb, a.Config.Types())
	if len(chain) == 0 {
		return
	}
	env := &invoke.Args{
		Command: verb, ContainerID: of.ContainerID, NetNS: of.Netns, PluginArgs: args(a.Args), IfName: a.IfName,
		Path: strings.Join(r.path, string(os.PathListSeparator)),
	}
	e.startAhead(chain[0], env.AsEnv())
}

// Then makes the next Add or Del prestart the first delegate of another attachment while its own last delegate works. a
// is nil if there is no other attachment.
func (r *Runner) Then(verb string, of *ledger.Record, a *ledger.Attachment) {
	r.then = nil
	if a != nil {
		r.then = func() { r.Prestart(verb, of, a) }
	}
}

// follow tells exec which plugins of a list follow its first one, and what to do after the last one.
func (r *Runner) follow(verb string, list *libcni.NetworkConfigList) {
	types := make([]string, len(list.Plugins))
	for i, p := range list.Plugins {
		types[i] = p.Network.Type
	}
	r.exec.following, r.exec.then = nil, r.then
	if chain := chainOf(verb, types); len(chain) > 0 {
		r.exec.following = chain[1:]
	}
	r.then = nil
}

// Close ends the delegate that was started ahead, if there is one. It has done nothing.
func (r *Runner) Close() { r.exec.endAhead() }

// chainOf returns the plugins of a list in the order in which a verb runs them.
func chainOf(verb string, types []string) []string {
	if verb == "DEL" {
		types = slices.Clone(types)
		slices.Reverse(types)
	}
	return types
}

// startAhead starts a delegate and withholds its input. An error is ignored: the delegate is started again when its
// turn comes, and the error is reported then.
func (e *Exec) startAhead(plugin string, environ []string) {
	path, err := e.FindInPath(plugin, e.paths)
	if err != nil || isScript(path) || e.busy() {
		return
	}
	p := newProcess()
	p.withheld = true
	if err := p.start(path, environ, e.Lock); err != nil {
		p.close()
		return
	}
	sorted := slices.Clone(environ)
	slices.Sort(sorted)
	e.ahead = &ahead{path, sorted, p}
	failpoint.At("exec.prestarted")
}

// takeAhead returns the process that was started ahead for this call, or nil. A process for another call is ended.
func (e *Exec) takeAhead(path string, environ []string) *process {
	a := e.ahead
	if a == nil {
		return nil
	}
	sorted := slices.Clone(environ)
	slices.Sort(sorted)
	if a.path != path || !slices.Equal(a.environ, sorted) {
		e.endAhead()
		return nil
	}
	e.ahead = nil
	return a.process
}

func (e *Exec) endAhead() {
	if e.ahead != nil {
		e.ahead.process.end()
		e.ahead = nil
	}
}

// isScript reports whether a program is a script, which may act before it reads its input. It also returns true for a
// program that cannot be read.
func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	var head [2]byte
	n, _ := f.Read(head[:])
	return n < len(head) || string(head[:]) == "#!"
}

// isBusy reports whether more threads of the node are ready to run than it has processors. A process that is started
// early then takes time from others and gains nothing.
func isBusy() bool {
	if failpoint.Enabled {
		return false // a test passes the same points each time
	}
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return true
	}
	fields := bytes.Fields(b) // the fourth one is runnable/all
	if len(fields) < 4 {
		return true
	}
	runnable, _, _ := bytes.Cut(fields[3], []byte("/"))
	n, err := strconv.Atoi(string(runnable))
	return err != nil || n > runtime.NumCPU()
}
