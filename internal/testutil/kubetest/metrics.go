package kubetest

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// label matches one label of a metric.
var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// Answers returns how many requests the API server has answered since its last start, by "VERB resource/subresource
// code", from the server's own metrics. The metrics do not contain the client. To count the requests of one client,
// compare two results between which no other client was active. A watch is counted when it ends.
func (c *Cluster) Answers(tb testing.TB) map[string]int {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	b, err := c.kube.Discovery().RESTClient().Get().AbsPath("/metrics").Do(ctx).Raw()
	if err != nil {
		tb.Fatalf("read metrics: %v", err)
	}
	counts := map[string]int{}
	for line := range strings.Lines(string(b)) {
		labels, value, ok := strings.Cut(strings.TrimPrefix(line, "apiserver_request_total{"), "} ")
		if !ok || !strings.HasPrefix(line, "apiserver_request_total{") {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			tb.Fatalf("parse metrics: %v", err)
		}
		of := map[string]string{}
		for _, m := range label.FindAllStringSubmatch(labels, -1) {
			of[m[1]] = m[2]
		}
		what := of["verb"] + " " + of["resource"]
		if of["subresource"] != "" {
			what += "/" + of["subresource"]
		}
		counts[what+" "+of["code"]] += int(n)
	}
	return counts
}
