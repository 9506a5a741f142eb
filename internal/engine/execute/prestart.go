package execute

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
)

// A delegate does nothing before it has read its standard input. Its process can therefore be started while the work
// before it is still in progress: the record is written, or the delegate before it works. It gets its input when its
// turn comes, so that the order of all effects stays the same. If this process is killed meanwhile, the delegate reads
// the end of its input and fails by itself.

// aheadLimit is how long a delegate waits for its input before it is killed, and started again when its turn comes.
// Some delegates take a lock before they read their input. Without the limit, such a one could keep the lock from the
// delegate before it, which would never end.
const aheadLimit = 250 * time.Millisecond

// ahead is the delegate that was started before its turn.
type ahead struct {
	path    string
	environ []string
	process *process
	// limit kills the process after aheadLimit.
	limit *time.Timer
}

// delegate is a call of a delegate that is not due yet. environ is nil if it is that of the call before.
type delegate struct {
	plugin  string
	environ []string
}

// Prestart starts the first delegate of a verb, ADD or DEL, for an attachment. The verb gives it its input. Without a
// verb, Close ends it. Prestart does nothing if a delegate was started ahead already, or if it would not help.
func (r *Runner) Prestart(verb string, of *ledger.Record, a *ledger.Attachment) {
	if r.exec.Prestart && r.exec.ahead == nil {
		d := r.first(verb, of, a)
		r.exec.startAhead(d.plugin, d.environ)
	}
}

// Then makes the next Add or Del prestart the first delegate of another attachment while its own last delegate works. a
// is nil if no other attachment follows.
func (r *Runner) Then(verb string, of *ledger.Record, a *ledger.Attachment) {
	r.then = nil
	if a != nil && r.exec.Prestart {
		r.then = []delegate{r.first(verb, of, a)}
	}
}

// first returns the first delegate of a verb for an attachment, with the environment that libcni gives it.
func (r *Runner) first(verb string, of *ledger.Record, a *ledger.Attachment) delegate {
	environ := withoutCNI(os.Environ()) //nolint:forbidigo // libcni passes the environment of this process, too
	return delegate{inOrder(verb, a.Config.Types())[0], append(environ,
		"CNI_COMMAND="+verb, "CNI_CONTAINERID="+of.ContainerID, "CNI_NETNS="+of.Netns, "CNI_IFNAME="+a.IfName,
		"CNI_ARGS="+a.Args.String(), "CNI_PATH="+strings.Join(r.path, string(os.PathListSeparator)))}
}

// follow sets the delegates that follow the first one of a list: the others of the list, and that of Then.
func (r *Runner) follow(verb string, list *libcni.NetworkConfigList) {
	types := make([]string, len(list.Plugins))
	for i, p := range list.Plugins {
		types[i] = p.Network.Type
	}
	for i, typ := range inOrder(verb, types) {
		if i > 0 {
			r.exec.following = append(r.exec.following, delegate{plugin: typ})
		}
	}
	r.exec.following = append(r.exec.following, r.then...)
	r.then = nil
}

// Close ends the delegate that was started ahead, if there is one. It has done nothing.
func (r *Runner) Close() { r.exec.endAhead() }

// inOrder returns the plugins of a list in the order in which a verb runs them.
func inOrder(verb string, types []string) []string {
	if verb == request.Del {
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
	e.ahead = &ahead{path, environ, p, time.AfterFunc(e.aheadLimit, p.kill)}
	failpoint.At("exec.prestarted")
}

// takeAhead returns the process that was started ahead for this call, or nil. A process for another call is ended.
func (e *Exec) takeAhead(path string, environ []string) *process {
	a := e.ahead
	if a == nil {
		return nil
	}
	if a.path != path || !sameCall(a.environ, environ) || !a.limit.Stop() {
		e.endAhead()
		return nil
	}
	e.ahead = nil
	return a.process
}

// sameCall reports whether two environments are those of one call. libcni returns the variables in any order. Those
// that are not CNI's are the environment of this process, which does not change.
func sameCall(a, b []string) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(kv string) bool {
		return isCNI(kv) && !slices.Contains(b, kv)
	})
}

func withoutCNI(environ []string) []string { return slices.DeleteFunc(environ, isCNI) }

func isCNI(kv string) bool { return strings.HasPrefix(kv, "CNI_") }

func (e *Exec) endAhead() {
	if e.ahead != nil {
		e.ahead.limit.Stop()
		e.ahead.process.end()
		e.ahead = nil
	}
}

// isScript reports whether a program is a script, which may act before it reads its input.
func isScript(path string) bool {
	var head [2]byte
	return string(readHead(path, head[:])) == "#!"
}

// isBusy reports whether more than two threads of the node are ready to run for each of its processors. A process that
// is started early then takes time from others and gains nothing. With one thread for each processor, half of the gain
// was lost on a node of two processors, since a delegate and the IPAM plugin that it runs are such threads.
func isBusy() bool {
	if failpoint.Enabled {
		return false // a test passes the same points each time
	}
	var buf [128]byte
	fields := bytes.Fields(readHead("/proc/loadavg", buf[:])) // the fourth one is runnable/all
	if len(fields) < 4 {
		return true
	}
	runnable, _, _ := bytes.Cut(fields[3], []byte("/"))
	n, err := strconv.Atoi(string(runnable))
	return err != nil || n > 2*runtime.NumCPU()
}
