package scale

import (
	"bufio"
	bytesOf "bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/kubetest"
)

// transport is one way to read all definitions.
type transport struct {
	Name                   string
	Requests, Bytes        int
	Took, ServerCPU        time.Duration
	query, encoding, media string
}

const (
	networksPath = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"
	media        = "application/json"
	streamed     = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=300"
	// listedEnd occurs in the event that ends a streamed list.
	listedEnd = `"k8s.io/initial-events-end"`
)

var transports = []transport{
	{
		Name: "list from the API server's memory, compressed: what the daemon does", query: "resourceVersion=0",
		encoding: "gzip", media: media,
	},
	{Name: "the same, not compressed", query: "resourceVersion=0", media: media},
	{Name: "list, consistent, compressed", encoding: "gzip", media: media},
	{Name: "list in pages of 500, compressed", query: "limit=500", encoding: "gzip", media: media},
	{Name: "list streamed as events of a watch, compression asked for", query: streamed, encoding: "gzip", media: media},
	{
		Name: "metadata only, compressed", query: "resourceVersion=0", encoding: "gzip",
		media: media + ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
	},
	{Name: "protobuf", query: "resourceVersion=0", media: "application/vnd.kubernetes.protobuf"},
}

// measureLists reads all definitions in every way, three times each. The median counts.
func measureLists(t *testing.T, cluster *kubetest.Cluster) []transport {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cluster.CA())
	client := &http.Client{Timeout: waitTimeout, Transport: &http.Transport{
		DisableCompression: true, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
	defer client.CloseIdleConnections()
	apiPid, _ := cluster.Pids()
	var out []transport
	for _, way := range transports {
		var all []transport
		for range 3 {
			one, begin, before := way, time.Now(), cpu(t, apiPid)
			for next := "start"; next != ""; one.Requests++ {
				n := 0
				n, next = read(t, client, cluster, way, next)
				one.Bytes += n
			}
			one.Took, one.ServerCPU = time.Since(begin), cpu(t, apiPid)-before
			all = append(all, one)
		}
		slices.SortFunc(all, func(a, b transport) int { return int(a.ServerCPU - b.ServerCPU) })
		out = append(out, all[1])
	}
	return out
}

// read reads one answer and returns its size and the continue token of the next page.
func read(t *testing.T, client *http.Client, cluster *kubetest.Cluster, way transport,
	next string,
) (n int, more string) {
	t.Helper()
	url := "https://" + cluster.Addr() + networksPath + "?" + way.query
	if next != "start" {
		url += "&continue=" + next
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+cluster.Token())
	req.Header.Set("Accept", way.media)
	if way.encoding != "" {
		req.Header.Set("Accept-Encoding", way.encoding)
	}
	resp, err := client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusOK:
		return 0, ""
	case strings.Contains(way.query, "watch=1"):
		return readStream(t, resp.Body), ""
	case !strings.Contains(way.query, "limit="):
		n, err := io.Copy(io.Discard, resp.Body)
		must(t, err)
		return int(n), ""
	}
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return len(b), continueOf(t, b, resp.Header.Get("Content-Encoding") == "gzip")
}

// continueOf returns the continue token of a page, or "" after the last page. A short page is not compressed.
func continueOf(t *testing.T, body []byte, compressed bool) string {
	t.Helper()
	var r io.Reader = bytesOf.NewReader(body)
	if compressed {
		var err error
		r, err = gzip.NewReader(r)
		must(t, err)
	}
	var page struct{ Metadata struct{ Continue string } }
	must(t, json.NewDecoder(r).Decode(&page))
	return page.Metadata.Continue
}

func readStream(t *testing.T, body io.Reader) (n int) {
	t.Helper()
	r := bufio.NewReader(body)
	for {
		line, err := r.ReadString('\n')
		must(t, err)
		n += len(line)
		if strings.Contains(line, listedEnd) {
			return n
		}
	}
}

// largest describes the largest possible definition.
type largest struct {
	// Stored is the size of the largest configuration that the API server accepts, in steps of 16 KiB. Refused is its
	// answer to the next size.
	Stored  int
	Refused string
	// Attached reports whether a pod was attached to such a network. Problem is the reason if it was not.
	Attached bool
	Problem  string
}

// measureLargest determines the size of the largest configuration and attaches a pod to such a network.
func measureLargest(t *testing.T, s *site) largest {
	t.Helper()
	const step = 16 << 10
	var out largest
	client := s.cluster.Client().Discovery().RESTClient()
	padded := func(name string, size int) []byte {
		c := noop(name, "10.3.0.2/16")
		c = strings.TrimSuffix(c, "}") + `,"description":"`
		c += strings.Repeat("x", size-len(c)-len(`"}`)) + `"}`
		b, err := json.Marshal(map[string]any{
			"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
			"metadata": map[string]string{"name": name, "namespace": s.ns}, "spec": map[string]string{"config": c},
		})
		must(t, err)
		return b
	}
	low, high, last := 1, 256, ""
	for low+1 < high {
		mid := (low + high) / 2
		name := fmt.Sprintf("large-%d", mid)
		err := client.Post().AbsPath("/apis/k8s.cni.cncf.io/v1/namespaces", s.ns, "network-attachment-definitions").
			Body(padded(name, mid*step)).Do(t.Context()).Error()
		if err == nil {
			low, last = mid, name
		} else {
			high, out.Refused = mid, err.Error()
		}
	}
	out.Stored = low * step
	p := s.pod(t, "large", last)
	_, err := s.Add(t, s.conf(t), p)
	if out.Attached = err == nil; !out.Attached {
		out.Problem = err.Error()
	}
	must(t, s.Del(t, s.conf(t), p))
	return out
}
