// Package faults injects faults and checks what is left. Processes are killed at every named point (internal/failpoint)
// and at random times, records are damaged, delegates hang, and the daemon stops and starts. After each fault a test
// does what a container runtime does and counts what is wrong. The counts are printed as one table, which must be all
// zeros (docs/reliability.md).
package faults

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"multus/internal/testutil/node"
)

// perCPU is the number of parallel tests for each processor. -parallel overrides it.
const perCPU = 2

// binDir is the directory of the project's binaries, built with the tag failpoint.
var binDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// Tests mostly wait: for delegates, namespaces and limits.
	_ = flag.Set("test.parallel", strconv.Itoa(perCPU*runtime.NumCPU())) // the flag exists
	flag.Parse()
	// Test binaries of other packages have mounts and processes, too. Everything of this one is below one directory.
	dir, err := os.MkdirTemp("", "multus-faults-")
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	if err == nil {
		binDir = dir + "/bin"
		err = build(binDir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer node.Cleanup()
	code := m.Run()
	if err := table.print(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func build(dir string) error {
	if os.Geteuid() != 0 {
		return nil // all tests will be skipped
	}
	cmd := exec.Command("go", "build", "-tags", "failpoint", "-buildvcs=false", "-trimpath", "-o", dir+"/",
		"multus/cmd/...", "multus/internal/testutil/fakeplugin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the binaries with failpoints: %w: %s", err, out)
	}
	return nil
}

// duration returns the total time of the tests with random faults: FAULTS_SECONDS, or 15 s. A value above 60 also
// enables everything that a short run leaves out.
func duration() time.Duration {
	n, err := strconv.Atoi(os.Getenv("FAULTS_SECONDS"))
	if err != nil {
		n = 15
	}
	return time.Duration(n) * time.Second
}

func long() bool { return duration() > time.Minute }

// row is one line of the table.
type row struct {
	fault string
	// expected is set when the harness itself is tested. Findings are then counted but do not fail the test.
	expected bool

	// mu guards the counts.
	mu                                                         sync.Mutex
	tries, interfaces, addresses, records, stuck, locks, wrong int
}

// results has all rows, in the order in which they were begun.
type results struct {
	mu   sync.Mutex
	rows []*row
}

var table results

// row returns the row of a fault. It adds the row if the table has no row of that fault.
func (r *results) row(fault string) *row {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, have := range r.rows {
		if have.fault == fault {
			return have
		}
	}
	r.rows = append(r.rows, &row{fault: fault})
	return r.rows[len(r.rows)-1]
}

// try counts one try.
func (r *row) try() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
}

// bad adds n findings to a count and fails the test.
func (r *row) bad(t *testing.T, count *int, n int, format string, args ...any) {
	t.Helper()
	r.mu.Lock()
	*count += n
	r.mu.Unlock()
	if r.expected {
		t.Logf(r.fault+": as expected: "+format, args...)
		return
	}
	t.Errorf(r.fault+": "+format, args...)
}

func (r *row) sum() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.interfaces + r.addresses + r.records + r.stuck + r.locks + r.wrong
}

// print writes the table to the file FAULTS_TABLE, or to standard output.
func (r *results) print() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == 0 {
		return nil
	}
	out := os.Stdout
	if path := os.Getenv("FAULTS_TABLE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\ttries\tleaked interfaces\tleaked addresses\tleft records\tstuck pods\tstuck locks\twrong "+
		"statuses\t")
	total := row{fault: "all"}
	for _, x := range r.rows {
		total.tries, total.interfaces, total.addresses = total.tries+x.tries, total.interfaces+x.interfaces,
			total.addresses+x.addresses
		total.records, total.stuck, total.locks, total.wrong = total.records+x.records, total.stuck+x.stuck,
			total.locks+x.locks, total.wrong+x.wrong
	}
	for _, x := range append(r.rows, &total) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", x.fault, x.tries, x.interfaces, x.addresses, x.records, x.stuck,
			x.locks, x.wrong)
	}
	return w.Flush()
}
