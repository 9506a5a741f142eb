package kubetest

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// auditVerbs are the audit log's verbs whose name differs from the one in the server's metrics.
var auditVerbs = map[string]string{"create": "POST", "update": "PUT"}

// auditEvent is what matters here of audit.k8s.io/v1 Event.
type auditEvent struct {
	Verb       string `json:"verb"`
	UserAgent  string `json:"userAgent"`
	RequestURI string `json:"requestURI"`
	ReceivedAt string `json:"requestReceivedTimestamp"`
	ObjectRef  *struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Name        string `json:"name"`
	} `json:"objectRef"`
}

func (e *auditEvent) key() string {
	verb := strings.ToUpper(e.Verb)
	if v, ok := auditVerbs[e.Verb]; ok {
		verb = v
	}
	what, _, _ := strings.Cut(e.RequestURI, "?")
	if e.ObjectRef != nil && e.ObjectRef.Resource != "" {
		what = e.ObjectRef.Resource
		if e.ObjectRef.Subresource != "" {
			what += "/" + e.ObjectRef.Subresource
		}
	}
	return verb + " " + what
}

// Request is one request that the API server has got.
type Request struct {
	Agent string
	// What is "VERB resource/subresource" with the verbs GET, LIST, WATCH, POST, PUT, PATCH, DELETE and DELETECOLLECTION,
	// or "GET /path" where there is no resource.
	What string
	// URI has the options, too.
	URI string
	At  time.Time
}

// Requests counts the requests of Log, by Request.What.
func (c *Cluster) Requests(tb testing.TB, agents ...string) map[string]int {
	tb.Helper()
	counts := map[string]int{}
	for _, r := range c.Log(tb, agents...) {
		counts[r.What]++
	}
	return counts
}

// Log returns the requests that the API server has got since its first start. With agents, only requests whose
// User-Agent contains one of them; without, all but the ones of this package and the server's own.
//
// The source is the audit log and not the metrics: it knows the User-Agent, and a request is in it before it is
// answered, so that what a client has done is always there.
func (c *Cluster) Log(tb testing.TB, agents ...string) []Request {
	tb.Helper()
	b, err := os.ReadFile(c.path("audit.log"))
	if err != nil {
		tb.Fatalf("read audit log: %v", err)
	}
	var out []Request
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // Being written: not yet answered.
		}
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			tb.Fatalf("parse audit log: %v", err)
		}
		if !wanted(e.UserAgent, agents) {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, e.ReceivedAt)
		if err != nil {
			tb.Fatalf("parse audit log: %v", err)
		}
		out = append(out, Request{Agent: e.UserAgent, What: e.key(), URI: e.RequestURI, At: at})
	}
	return out
}

func wanted(agent string, agents []string) bool {
	for _, a := range agents {
		if strings.Contains(agent, a) {
			return true
		}
	}
	return len(agents) == 0 && agent != Agent
}
