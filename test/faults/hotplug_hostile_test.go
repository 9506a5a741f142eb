package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"multus/internal/engine/publish"
	"multus/internal/testutil/node"
	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

// hostileDaemon answers the requests of a runner as a test says.
type hostileDaemon struct {
	// work has the answers to requests for work. A request waits for one.
	work chan string

	// mu guards the answer to a request for changes, and the results.
	mu      sync.Mutex
	diff    string
	results []wirev1.WorkResult
}

func (h *hostileDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := "{}"
	switch r.Method + " " + r.URL.Path {
	case "GET " + wirev1.PathWork:
		select {
		case body = <-h.work:
		case <-r.Context().Done():
			return
		}
	case "POST " + wirev1.PathWork:
		var done wirev1.WorkDone
		_ = json.NewDecoder(r.Body).Decode(&done)
		h.mu.Lock()
		h.results = append(h.results, done.Results...)
		h.mu.Unlock()
	case "POST " + wirev1.PathDiff:
		h.mu.Lock()
		body = h.diff
		h.mu.Unlock()
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write([]byte(body)) // an error means that the client has refused the answer
}

// newHostileDaemon starts the daemon on a socket of its own, and returns the configuration of its runner.
func newHostileDaemon(t *testing.T, s *site) (h *hostileDaemon, config string) {
	t.Helper()
	h = &hostileDaemon{work: make(chan string)}
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "multus.sock"))
	check(t, err)
	server := &http.Server{Handler: h, ReadHeaderTimeout: waitTimeout}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	conf := maps.Clone(s.conf)
	conf["daemonSocketDir"] = dir
	b, err := json.Marshal(conf)
	check(t, err)
	config = filepath.Join(dir, "runner.conf")
	check(t, os.WriteFile(config, b, 0o600))
	return h, config
}

// adding returns changes with an attachment that has these members instead of valid ones.
func adding(t *testing.T, members map[string]any) string {
	t.Helper()
	a := map[string]any{
		"name": "default/x", "origin": "annotation", "ifName": "net9", "args": [][2]string{}, "routes": map[string]any{},
		"config": map[string]any{"cniVersion": "1.0.0", "name": "x", "type": "bridge"},
	}
	maps.Copy(a, members)
	b, err := json.Marshal(map[string]any{"add": []any{a}})
	check(t, err)
	return string(b)
}

// hostileChanges are answers to a request for the changes of a pod that has eth0 and net1.
func hostileChanges(t *testing.T) map[string]string {
	t.Helper()
	network := func(name, plugin string) map[string]any {
		return map[string]any{"config": map[string]any{"cniVersion": "1.0.0", "name": name, "type": plugin}}
	}
	many := strings.TrimSuffix(strings.Repeat("1,", 100_000), ",")
	return map[string]string{
		"removes the cluster network":     `{"remove":[0]}`,
		"removes what is not there":       `{"remove":[2]}`,
		"removes a negative index":        `{"remove":[-1]}`,
		"removes one twice":               `{"remove":[1,1]}`,
		"removes one 100,000 times":       `{"remove":[` + many + `]}`,
		"adds 100,000 empty ones":         `{"add":[` + strings.ReplaceAll(many, "1", "{}") + `]}`,
		"adds an interface that is there": adding(t, map[string]any{"ifName": "net1"}),
		"adds the cluster interface":      adding(t, map[string]any{"ifName": "eth0"}),
		"adds a cluster network":          adding(t, map[string]any{"primary": true}),
		"adds lo":                         adding(t, map[string]any{"ifName": "lo"}),
		"adds no interface":               adding(t, map[string]any{"ifName": ""}),
		"adds an interface with a slash":  adding(t, map[string]any{"ifName": "../x"}),
		"adds a long interface":           adding(t, map[string]any{"ifName": strings.Repeat("x", 16)}),
		"adds no configuration":           adding(t, map[string]any{"config": nil}),
		"adds a network with a slash":     adding(t, network("../../x", "bridge")),
		"adds a plugin with a slash":      adding(t, network("x", "../../bin/sh")),
		"adds Multus":                     adding(t, network("x", "multus-shim")),
		"adds a stage":                    adding(t, map[string]any{"stage": 1}),
		"adds routes":                     adding(t, map[string]any{"routes": map[string]any{"dropIPv4": true}}),
		"adds a file of another place":    adding(t, map[string]any{"deviceInfo": "/etc/passwd"}),
		"refuses without a reason":        `{"refused":[{"name":"x"}]}`,
		"is no JSON":                      `{"remove":`,
		"is of another type":              `{"remove":"1"}`,
		"is a valid change and one more":  `{"remove":[1,0]}`,
	}
}

// TestHostileDaemon checks that a runner refuses answers of the daemon that it must not follow, reports that, changes
// nothing, and goes on (behaviour R8). The first answer and the last one are valid.
func TestHostileDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, two, nil)
	r := table.row("hostile answers of the daemon to a runner")
	s.attach(t)
	h, config := newHostileDaemon(t, s)
	valid := fmt.Sprintf(`{"pods":[{"namespace":"default","name":%q,"uid":%q}]}`, s.pod.Name, s.pod.UID)
	c := s.runnerFor(t, config, "0")
	if got := h.hand(t, valid, `{"remove":[2]}`); len(got) != 1 || got[0].Error != "" {
		t.Fatalf("a valid change: %+v", got)
	}
	before, reports := s.state(t), filepath.Join(filepath.Dir(config), wirev1.ReportDir)
	check(t, os.RemoveAll(reports))
	answers := hostileChanges(t)
	const work = "work: "
	for what, answer := range map[string]string{
		"a relative state directory": `{"pods":[{"namespace":"default","name":"web"}],"stateDir":"state"}`,
		"another state directory":    fmt.Sprintf(`{"pods":[{"namespace":"default","name":"web"}],"stateDir":%q}`, s.Dir),
		"names with slashes":         `{"pods":[{"namespace":"../default","name":"../../web","uid":"/"}]}`,
		"another pod":                `{"pods":[{"namespace":"other","name":"web","uid":"web-uid"}]}`,
		"1,000 pods":                 `{"pods":[` + strings.TrimSuffix(strings.Repeat(`{"name":"x"},`, 1000), ",") + `]}`,
		"no JSON":                    `{`,
	} {
		answers[work+what] = answer
	}
	for what, answer := range answers {
		r.try()
		if strings.HasPrefix(what, work) {
			h.hand(t, answer, `{"remove":[1]}`)
		} else if got := h.hand(t, valid, answer); len(got) != 1 || got[0].Error == "" {
			t.Errorf("%s: results %+v, want one error", what, got)
		}
		if after := s.state(t); after != before {
			r.bad(t, &r.records, 1, "%s: changed:\n%s\nbefore:\n%s", what, after, before)
			before = after
		}
	}
	if left, err := os.ReadDir(reports); len(left) > 0 {
		r.bad(t, &r.wrong, len(left), "statuses are reported: %v, %v", left, err)
	}
	if got := h.hand(t, valid, `{"remove":[1]}`); len(got) != 1 || got[0].Error != "" || s.state(t) == before {
		t.Errorf("a valid change: %+v", got)
	}
	c.stop(t)
	s.del(t, r, "after all")
	s.clean(t, r, "after all")
}

// hand gives a runner some work, and returns the results after the runner has requested more.
func (h *hostileDaemon) hand(t *testing.T, work, diff string) []wirev1.WorkResult {
	t.Helper()
	h.mu.Lock()
	h.diff, h.results = diff, nil
	h.mu.Unlock()
	for _, answer := range []string{work, `{"pods":[]}`} {
		select {
		case h.work <- answer:
		case <-time.After(waitTimeout):
			t.Errorf("the runner does not request work within %s", waitTimeout)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.results
}

// state returns what exists of the site's pod: its record, its interfaces and the files of the node's state.
func (s *site) state(t *testing.T) string {
	t.Helper()
	record, err := os.ReadFile(filepath.Join(s.State(), s.pod.ContainerID))
	check(t, err)
	return fmt.Sprintf("%s\n%v\n%v", record, interfaces(t, s.pod.NS), s.Left(t))
}

// hotPlugAnnotations checks that an annotation which cannot be read changes nothing in a running pod and causes one
// event, however often the pod is tried again, and that the pod changes after the annotation is corrected (behaviour
// R9).
func hotPlugAnnotations(t *testing.T, s *hotPlugSite) {
	r := table.row("annotation of a running pod that cannot be read")
	s.attachWith(t, r, networks{"n1": ""})
	trace := filepath.Join(t.TempDir(), "trace")
	tries := func() int {
		b, _ := os.ReadFile(trace) // the runner creates it
		return strings.Count(string(b), "runner.applied")
	}
	c := s.runner(t, "MULTUS_FAILPOINT_TRACE="+trace)
	has := networks{"n1": ""}
	for i, broken := range []string{"[{", "n1, n2, n 3", `[{"name":""}]`} {
		r.try()
		before, tried := s.state(t), tries()
		s.cluster.Annotate(t, s.ns, s.pod.Name, networksKey, broken)
		waitFor(t, "the pod is tried twice", func() bool { return tries() >= tried+2 })
		rejected := func() (n int) {
			for _, e := range s.cluster.Events(t, s.ns, s.pod.Name) {
				if e.Reason == publish.InterfaceAddRejected {
					n += int(max(e.Count, 1))
				}
			}
			return n
		}
		waitFor(t, "the event is written", func() bool { return rejected() > i })
		if n := rejected(); n != i+1 {
			r.bad(t, &r.wrong, 1, "%s: %d events, want %d", broken, n, i+1)
		}
		if after := s.state(t); after != before {
			r.bad(t, &r.records, 1, "%s: changed:\n%s\nbefore:\n%s", broken, after, before)
		}
		if has["n2"] = fmt.Sprintf("data%d", i); i == 1 {
			delete(has, "n2")
		}
		s.request(t, s.pod, has)
		s.settles(t, r, s.pod, has, waitTimeout, "corrected: "+broken)
	}
	c.stop(t)
	s.finish(t, r, "after all")
}

// hotPlugRequests sends the daemon requests that no runner sends. It keeps within its memory, and serves runners after
// that.
func hotPlugRequests(t *testing.T, s *hotPlugSite) {
	r := table.row("hostile requests of a runner")
	s.StopDaemon(t)
	s.DaemonEnv = []string{fmt.Sprint("GOMEMLIMIT=", manifestLimit/10*8)}
	s.StartDaemon(t)
	s.attachWith(t, r, networks{})
	const many = 100_000
	done := &wirev1.WorkDone{Results: make([]wirev1.WorkResult, many)}
	for i := range done.Results {
		done.Results[i] = wirev1.WorkResult{Pod: wirev1.Pod{Name: strconv.Itoa(i)}, Error: "no"}
	}
	compare := &wirev1.DiffRequest{
		Request: &wirev1.Request{
			Command: "ADD", ContainerID: s.pod.ContainerID, Netns: s.pod.Path, IfName: "eth0", Config: s.Conf(),
			Args: [][2]string{{"K8S_POD_NAMESPACE", s.ns}, {"K8S_POD_NAME", s.pod.Name}, {"K8S_POD_UID", s.pod.UID}},
		},
		Attached: make([]wirev1.Present, many),
	}
	for i := range compare.Attached {
		compare.Attached[i] = wirev1.Present{Name: "x/y", IfName: "net1", Owner: "pod", Size: -1}
	}
	c := &client.Client{Socket: filepath.Join(s.SocketDir(), "multus.sock")}
	for _, send := range []struct {
		method, path string
		body         any
	}{
		{"POST", wirev1.PathWork, done},
		{"POST", wirev1.PathDiff, compare},
		{"POST", wirev1.PathDiff, &wirev1.DiffRequest{Attached: []wirev1.Present{{Size: -1 << 62}}}},
		{"POST", wirev1.PathWork, &wirev1.WorkDone{Results: []wirev1.WorkResult{{Error: strings.Repeat("x", 17<<20)}}}},
		{"GET", wirev1.PathWork + "?wait=-1h", nil},
		{"GET", wirev1.PathWork + "?wait=x", nil},
		{"GET", wirev1.PathWork + "?wait=100000h", nil},
	} {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				r.try()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_ = c.Call(ctx, send.method, send.path, send.body, nil) // it may be refused
			})
		}
		wg.Wait()
	}
	now, peak := rss(t, s.Daemon().Pid)
	t.Logf("daemon %d KiB, at most %d KiB", now>>10, peak>>10)
	if peak > manifestLimit {
		r.bad(t, &r.stuck, 1, "the daemon took %d KiB, and its limit is %d KiB", peak>>10, manifestLimit>>10)
	}
	s.request(t, s.pod, networks{"n1": ""})
	s.reach(t, r, networks{"n1": ""}, "afterwards")
	s.finish(t, r, "afterwards")
}
