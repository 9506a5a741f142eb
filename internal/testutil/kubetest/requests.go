package kubetest

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// auditVerbs maps verbs of the audit log to the names in the server's metrics, if they differ.
var auditVerbs = map[string]string{"create": "POST", "update": "PUT"}

// auditEvent has the fields of an audit.k8s.io/v1 Event that are needed here.
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

// Request is one request that the API server received.
type Request struct {
	Agent string
	// What is "VERB resource/subresource" with one of the verbs GET, LIST, WATCH, POST, PUT, PATCH, DELETE and
	// DELETECOLLECTION. For a request without a resource it is "GET /path".
	What string
	// URI includes the query.
	URI string
	At  time.Time
}

// Requests counts the requests of Log by Request.What.
func (c *Cluster) Requests(tb testing.TB, agents ...string) map[string]int {
	tb.Helper()
	counts := map[string]int{}
	for _, r := range c.Log(tb, agents...) {
		counts[r.What]++
	}
	return counts
}

// Log returns the requests that the API server has received since its first start. With agents, it returns only
// requests whose User-Agent contains one of them. Without agents, it leaves out the requests of this package and of the
// server itself.
//
// The source is the audit log and not the metrics, because it contains the User-Agent, and because a request is logged
// before it is answered: every request that a client has completed is in the log.
func (c *Cluster) Log(tb testing.TB, agents ...string) []Request {
	tb.Helper()
	b, err := os.ReadFile(c.path("audit.log"))
	if err != nil {
		tb.Fatalf("read audit log: %v", err)
	}
	var out []Request
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // the line is being written, so the request is not yet answered
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
