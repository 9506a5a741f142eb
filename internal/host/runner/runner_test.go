package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fsx"
	"multus/internal/node"
	"multus/internal/testutil/eventually"
	wirev1 "multus/wire/v1"
)

// TestParse checks the command line.
func TestParse(t *testing.T) {
	t.Parallel()
	for line, tc := range map[string]struct {
		want options
		help bool
		err  string
	}{
		"":                                {want: options{linger: DefaultLinger}},
		"--help":                          {help: true},
		"--linger 1m -h":                  {help: true},
		"--config /etc/cni":               {want: options{config: "/etc/cni", linger: DefaultLinger}},
		"--config=-":                      {want: options{config: "-", linger: DefaultLinger}},
		"--cni-path /a:/b --linger 0":     {want: options{path: "/a:/b", fixed: true}},
		"--linger=1h30m":                  {want: options{linger: 90 * time.Minute, fixed: true}},
		"--config=a=b":                    {want: options{config: "a=b", linger: DefaultLinger}},
		"--linger":                        {err: "--linger needs a value"},
		"--linger 5":                      {err: `"5" is no duration`},
		"--linger=-1s":                    {err: "no duration"},
		"--version":                       {err: `unknown argument "--version"`},
		"--config a b":                    {err: `unknown argument "b"`},
		"-config a":                       {err: `unknown argument "-config"`},
		"--config a --cni-path b --confi": {err: `unknown argument "--confi"`},
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			o := options{linger: DefaultLinger}
			help, err := o.parse(strings.Fields(line))
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			if err == nil && (help != tc.help || !help && o != tc.want) {
				t.Errorf("help %t, %+v, want %t, %+v", help, o, tc.help, tc.want)
			}
		})
	}
}

// TestRunArguments checks the exit codes and the output for arguments with which nothing is done.
func TestRunArguments(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct {
		code           int
		stdout, stderr string
	}{
		"--help":            {0, "Options:", ""},
		"--linger soon":     {2, "", "see multus-shim runner --help"},
		"--config /no/such": {1, "", "read the CNI configuration: stat /no/such"},
		"--config -":        {1, "", "decode the CNI configuration"},
	} {
		var stdout, stderr bytes.Buffer
		code := Run(strings.Fields(line), strings.NewReader("no JSON"), &stdout, &stderr, func(string) string { return "" })
		if code != want.code || !strings.Contains(stdout.String(), want.stdout) ||
			!strings.Contains(stderr.String(), want.stderr) {
			t.Errorf("%s: exit code %d, %q, %q", line, code, stdout.String(), stderr.String())
		}
	}
}

// The configurations of TestReadConfig: of Multus, of a list with it, of one sandbox, and of another plugin.
const (
	multus  = `{"cniVersion":"1.1.0","name":"m","type":"multus-shim"}`
	list    = `{"cniVersion":"1.1.0","name":"m","plugins":[{"type":"multus-shim"}]}`
	sandbox = `{"cniVersion":"1.1.0","name":"m","type":"multus-shim","runtimeConfig":{"a":1},"prevResult":{},"PrevResult":2}`
	bridge  = `{"cniVersion":"1.1.0","name":"b","type":"bridge"}`
)

// configDir returns a directory with files, which are given by name and content.
func configDir(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestReadConfig checks where the configuration comes from, and that it has nothing of one sandbox.
func TestReadConfig(t *testing.T) {
	t.Parallel()
	dir := func(files ...string) string { return configDir(t, files...) }
	for name, tc := range map[string]struct{ from, stdin, err string }{
		"standard input":                     {from: "-", stdin: multus},
		"standard input, with a sandbox":     {from: "-", stdin: sandbox},
		"standard input, empty":              {from: "-", err: "decode the CNI configuration"},
		"standard input, not an object":      {from: "-", stdin: "[]", err: "decode the CNI configuration"},
		"standard input, cut off at a limit": {from: "-", stdin: strings.Repeat(" ", maxConfig) + multus, err: "decode"},
		"file":                               {from: filepath.Join(dir("a.conf", multus), "a.conf")},
		"list":                               {from: filepath.Join(dir("a.conflist", list), "a.conflist")},
		"directory: the first that calls Multus": {
			from: dir("00-b.conf", bridge, "10-m.conflist", list, "20-m.conf", `{"type":"multus"}`),
		},
		"directory without": {from: dir("00-b.conf", bridge), err: "name one with --config"},
		"missing":           {from: "/no/such", err: "no such file"},
		"a device":          {from: "/dev/null", err: "read the CNI configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := readConfig(tc.from, strings.NewReader(tc.stdin))
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			if err != nil {
				return
			}
			var got, want map[string]any
			if json.Unmarshal(b, &got) != nil || json.Unmarshal([]byte(multus), &want) != nil || !cmp.Equal(want, got) {
				t.Errorf("%s", b)
			}
		})
	}
}

// fakeDaemon answers the requests of a runner.
type fakeDaemon struct {
	socketDir string
	// work is the answer to a request for work, as JSON, and status is its HTTP status code. If work is empty, the answer
	// lists no pods.
	work   string
	status int
	// refuses makes the daemon refuse results.
	refuses bool
	// waits makes the daemon answer a request for work after the time that the request allows.
	waits bool
	// once makes the daemon hand out its work once.
	once bool

	// mu guards the times of the requests for work, and the results.
	mu      sync.Mutex
	asked   []time.Time
	results []wirev1.WorkResult
	// observed has the messages about sandboxes.
	observed  []wirev1.Observed
	delegated []wirev1.DelegateResult
}

func (f *fakeDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if wait, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil && f.waits {
		pause(r.Context(), wait)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	body := "{}"
	switch {
	case r.URL.Path == wirev1.PathObserved:
		var msg wirev1.Observed
		_ = json.NewDecoder(r.Body).Decode(&msg)
		f.observed = append(f.observed, msg)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	case r.URL.Path != wirev1.PathWork:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPost && f.refuses:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.Method == http.MethodPost:
		var done wirev1.WorkDone
		_ = json.NewDecoder(r.Body).Decode(&done)
		f.results = append(f.results, done.Results...)
		f.delegated = append(f.delegated, done.Delegated...)
	default:
		f.asked = append(f.asked, time.Now())
		if body = f.work; body == "" {
			body = `{"pods":[]}`
		}
		if f.once {
			f.work = ""
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if f.status != 0 {
			w.WriteHeader(f.status)
		}
	}
	_, _ = w.Write([]byte(body)) // an error means that the client is gone
}

// newFakeDaemon starts a daemon on a socket of its own.
func newFakeDaemon(t *testing.T, work string, status int) *fakeDaemon {
	t.Helper()
	f := &fakeDaemon{socketDir: t.TempDir(), work: work, status: status}
	l, err := net.Listen("unix", filepath.Join(f.socketDir, "multus.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f, ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return f
}

// runner returns a runner of the daemon, and the directory of its records.
func (f *fakeDaemon) runner(tb testing.TB, linger time.Duration) (*runner, string) {
	tb.Helper()
	state := tb.TempDir()
	raw := fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"m","type":"multus-shim","daemonSocketDir":%q,"cniDir":%q}`,
		f.socketDir, state)
	conf, err := config.ParsePlugin(raw)
	if err != nil {
		tb.Fatal(err)
	}
	o := &options{linger: linger, fixed: true}
	return newRunner(conf, raw, o, slog.New(slog.DiscardHandler)), state
}

// TestEnds checks when a runner ends: after linger, if the daemon has no work for runners, and when it is stopped.
func TestEnds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		work   string
		status int
		err    string
	}{
		"without work":                         {},
		"without an answer":                    {work: "no JSON"},
		"with a daemon that has no hot-plug":   {`{"code":6,"msg":"set hotPlug"}`, http.StatusNotFound, "set hotPlug"},
		"with a daemon that sets another time": {work: `{"pods":[],"linger":"1h"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeDaemon(t, tc.work, tc.status)
			r, _ := f.runner(t, 10*time.Millisecond)
			err := r.run(t.Context())
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
		})
	}
}

// TestEndsWithoutWork checks that a runner that has worked longer than it lingers requests work once more before it
// ends: until then the daemon takes it for one that works, and no other one is started.
func TestEndsWithoutWork(t *testing.T) {
	t.Parallel()
	f := newFakeDaemon(t, `{"pods":[],"observe":true}`, 0)
	f.once = true
	r, _ := f.runner(t, time.Nanosecond)
	if err := r.run(t.Context()); err != nil || len(f.asked) != 2 {
		t.Errorf("%v, requested %d times", err, len(f.asked))
	}
}

// TestLingerOfDaemon checks that the daemon's setting is used if the command line has none.
func TestLingerOfDaemon(t *testing.T) {
	t.Parallel()
	r := &runner{linger: DefaultLinger}
	for value, want := range map[string]time.Duration{"2s": 2 * time.Second, "": 0, "0s": 0, "-1s": 0, "x": 0} {
		r.linger = DefaultLinger
		if want == 0 {
			want = DefaultLinger
		}
		if r.setLinger(value); r.linger != want {
			t.Errorf("%q: %s", value, r.linger)
		}
	}
}

// TestFirstWait checks that the daemon's setting is known before a runner waits for work.
func TestFirstWait(t *testing.T) {
	t.Parallel()
	f := newFakeDaemon(t, `{"pods":[],"linger":"10ms"}`, 0)
	f.waits = true
	r, _ := f.runner(t, DefaultLinger)
	r.fixed = false
	start := time.Now()
	if err := r.run(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > workWait/2 {
		t.Errorf("ended after %s", took)
	}
}

// TestNoSandbox checks that a pod without a sandbox is reported as done, also if its name is that of a path.
func TestNoSandbox(t *testing.T) {
	t.Parallel()
	f := newFakeDaemon(t, `{"pods":[{"namespace":"team","name":"web","uid":"u"},{"namespace":"../..","name":"/etc","uid":""}]}`, 0)
	r, state := f.runner(t, time.Hour)
	f.until(t, r, func() bool { return len(f.results) >= 2 })
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, result := range f.results {
		if result.Error != "" {
			t.Errorf("%+v", result)
		}
	}
	if left, err := os.ReadDir(state); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// until runs a runner until a condition about the daemon is true.
func (f *fakeDaemon) until(t *testing.T, r *runner, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	eventually.True(t, "the daemon is called", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return condition()
	})
	cancel()
	if err := eventually.Receive(t, "the runner ends", ended); err != nil {
		t.Error(err)
	}
}

// TestRefusedWork checks that a runner does not act on work with a relative state directory, and that it pauses before
// it requests work again: the daemon has the same work at once.
func TestRefusedWork(t *testing.T) {
	t.Parallel()
	f := newFakeDaemon(t, `{"pods":[{"namespace":"team","name":"web"}],"stateDir":"../state"}`, 0)
	r, _ := f.runner(t, time.Hour)
	f.pauses(t, r)
	if len(f.results) > 0 {
		t.Errorf("%+v", f.results)
	}
}

// TestResultNotReported checks that a runner pauses after a result that the daemon did not take: it hands the pod out
// again at once.
func TestResultNotReported(t *testing.T) {
	t.Parallel()
	f := newFakeDaemon(t, `{"pods":[{"namespace":"team","name":"web"}]}`, 0)
	r, _ := f.runner(t, time.Hour)
	f.refuses = true
	f.pauses(t, r)
}

// pauses checks the time between the first two requests for work.
func (f *fakeDaemon) pauses(t *testing.T, r *runner) {
	t.Helper()
	f.until(t, r, func() bool { return len(f.asked) >= 2 })
	f.mu.Lock()
	defer f.mu.Unlock()
	if pause := f.asked[1].Sub(f.asked[0]); pause < retryPause/2 {
		t.Errorf("requested again after %s", pause)
	}
}

// TestOneRunner checks that a second runner ends at once.
func TestOneRunner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root for the lock file")
	}
	f := newFakeDaemon(t, "", 0)
	lock, err := fsx.TryAcquire(node.LockFile, lockKey+filepath.Join(f.socketDir, "multus.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"m","type":"multus-shim","daemonSocketDir":%q}`, f.socketDir)
	var stderr bytes.Buffer
	code := Run([]string{"--config", "-", "--linger", "1s"}, strings.NewReader(conf), &bytes.Buffer{}, &stderr,
		func(string) string { return "" })
	if code != 0 || len(f.asked) > 0 || stderr.Len() > 0 {
		t.Errorf("exit code %d, %d requests, %s", code, len(f.asked), stderr.String())
	}
}

// recordOf writes the record of a sandbox with the cluster network.
func recordOf(t *testing.T, store *ledger.Store, id string, args request.Args) {
	t.Helper()
	conf, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"cluster","type":"bridge"}`))
	if err == nil {
		err = store.Write(ledger.NewRecord(&plan.Plan{ContainerID: id, Attachments: []plan.Attachment{
			{Name: "cluster", IfName: "eth0", Primary: true, Config: conf, Args: args},
		}}))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSandboxes checks which records are those of a pod: a UID that is not known does not distinguish.
func TestSandboxes(t *testing.T) {
	t.Parallel()
	store := &ledger.Store{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	team, web := [2]string{request.PodNamespace, "team"}, [2]string{request.PodName, "web"}
	for id, args := range map[string]request.Args{
		"c1": {team, web, {request.PodUID, "u"}},
		"c2": {team, web, {request.PodUID, "old"}},
		"c3": {team, web},
		"c4": {{request.PodNamespace, "other"}, web, {request.PodUID, "u"}},
		"c5": nil,
	} {
		recordOf(t, store, id, args)
	}
	for i, empty := range []string{"[]", "null", "{", "[null]"} {
		if err := os.WriteFile(filepath.Join(store.Dir, fmt.Sprintf("empty-%d", i)), []byte(empty), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for uid, want := range map[string]string{"u": "c1 c3", "": "c1 c2 c3", "new": "c3"} {
		pod := wirev1.Pod{Namespace: "team", Name: "web", UID: uid}
		found, err := sandboxes(store, []wirev1.Pod{pod, {}})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, r := range found[pod] {
			ids = append(ids, r.ContainerID)
		}
		slices.Sort(ids)
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("UID %q: %s, want %s", uid, got, want)
		}
	}
}
