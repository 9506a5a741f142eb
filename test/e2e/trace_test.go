package e2e

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"multus/internal/testutil/eventually"
	"multus/internal/testutil/node"
	"multus/internal/testutil/tool"
)

const (
	runtimeTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	runtimeSpan   = "00f067aa0ba902b7"
	runtimeParent = "00-" + runtimeTrace + "-" + runtimeSpan + "-01"
)

// span is a span in OTLP/JSON.
type span struct {
	TraceID      string `json:"traceId"`
	SpanID       string `json:"spanId"`
	ParentSpanID string `json:"parentSpanId"`
	Name         string `json:"name"`
	Start        string `json:"startTimeUnixNano"`
	End          string `json:"endTimeUnixNano"`
	Status       struct {
		Code int `json:"code"`
	} `json:"status"`
}

// nanoseconds returns how long a span took.
func (s *span) nanoseconds(t *testing.T) int64 {
	t.Helper()
	start, err := strconv.ParseInt(s.Start, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	end, err := strconv.ParseInt(s.End, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return end - start
}

// collector is the OTLP receiver of the OpenTelemetry Collector.
type collector struct {
	endpoint string
	mu       sync.Mutex
	received []span
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	program, address := tool.Path(t, "otlp"), freeAddress(t)
	c := &collector{endpoint: "http://" + address}
	cmd := exec.Command(program, address)
	out, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = os.Stderr
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var read sync.WaitGroup
	read.Go(func() { c.read(bufio.NewReader(out)) })
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		read.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the receiver: %v", err)
		}
	})
	eventually.True(t, "the receiver serves", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		return err == nil && conn.Close() == nil
	})
	return c
}

// read reads the requests that the receiver prints.
func (c *collector) read(r *bufio.Reader) {
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		var msg struct {
			ResourceSpans []struct{ ScopeSpans []struct{ Spans []span } }
		}
		if json.Unmarshal(line, &msg) != nil {
			continue
		}
		c.mu.Lock()
		for _, resource := range msg.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				c.received = append(c.received, scope.Spans...)
			}
		}
		c.mu.Unlock()
	}
}

// named returns the spans of a trace by their names, once it has one of a name.
func (c *collector) named(t *testing.T, trace func(*span) bool, name string) map[string]*span {
	t.Helper()
	out := map[string]*span{}
	eventually.True(t, "span "+name, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := range c.received {
			if s := &c.received[i]; trace(s) {
				out[s.Name] = s
			}
		}
		return out[name] != nil
	})
	return out
}

// TestTraces checks the trace of a pod with two networks, as a real receiver of OTLP gets it (behaviour F90): the spans
// are below that of the runtime, and their times add up to that of the ADD. A failed ADD names its trace in the event
// of the pod and in the log.
func TestTraces(t *testing.T) {
	c := startCollector(t)
	s := newSite(t, node.Thick, node.Options{Conf: map[string]any{"failureEvents": true}, DaemonConf: map[string]any{
		"tracing": map[string]any{"endpoint": c.endpoint},
	}})
	t.Setenv("TRACEPARENT", runtimeParent)
	p := s.pod(t, "web", map[string]string{networks: "br,mac"}, true)
	if _, err := s.Add(t, s.Conf(), p); err != nil {
		t.Fatal(err)
	}
	ofRuntime := func(s *span) bool { return s.TraceID == runtimeTrace }
	spans := c.named(t, ofRuntime, "status")
	root := spans["multus.add"]
	if root == nil || root.ParentSpanID != runtimeSpan {
		t.Fatalf("spans %v", spans)
	}
	var sum int64
	for _, name := range []string{
		"plan", "record", "delegate cluster/bridge", "delegate " + s.ns + "/br/bridge", "delegate " + s.ns + "/mac/macvlan",
	} {
		one := spans[name]
		if one == nil {
			t.Fatalf("no span %s in %v", name, spans)
		}
		if one.ParentSpanID != root.SpanID {
			t.Errorf("span %s is below %s", name, one.ParentSpanID)
		}
		sum += one.nanoseconds(t)
	}
	if total := root.nanoseconds(t); sum > total || sum < total*95/100 {
		t.Errorf("the steps take %d ns, and the ADD %d ns", sum, total)
	}

	bad := s.pod(t, "bad", map[string]string{networks: "missing"}, true)
	if _, err := s.Add(t, s.Conf(), bad); err == nil {
		t.Fatal("ADD succeeds")
	}
	if !strings.Contains(s.DaemonLog(), "trace="+runtimeTrace) {
		t.Errorf("the log does not name the trace:\n%s", s.DaemonLog())
	}
	eventually.True(t, "the event names the trace", func() bool {
		for _, e := range s.api.Events(t, s.ns, "bad") {
			if strings.HasSuffix(e.Message, "trace "+runtimeTrace) {
				return true
			}
		}
		return false
	})
	for _, err := range []error{s.Del(t, s.Conf(), p), s.Del(t, s.Conf(), bad)} {
		if err != nil {
			t.Error(err)
		}
	}
}
