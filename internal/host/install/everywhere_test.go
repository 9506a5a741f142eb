package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fakeCluster is a cluster of two nodes.
type fakeCluster struct {
	// ending is how often a DaemonSet still has pods. failing is how often each call fails.
	ending, failing int
	complete        func(node string) (bool, error)
	jobs            map[string]map[string]any
	deleted         []string
}

var errAway, errFailed = errors.New("API server away"), errors.New("BackoffLimitExceeded")

func (c *fakeCluster) Nodes(context.Context) ([]string, error) {
	return []string{"node-a", strings.Repeat("long.", 30) + "node"}, nil
}

func (c *fakeCluster) DeleteDaemonSet(_ context.Context, namespace, name string) (bool, error) {
	if c.failing > 0 {
		c.failing--
		return false, errAway
	}
	if c.ending > 0 {
		c.ending--
		return false, nil
	}
	c.deleted = append(c.deleted, namespace+"/"+name)
	return true, nil
}

func (c *fakeCluster) CreateJob(_ context.Context, _, name string, job []byte) error {
	if len(c.deleted) < 2 {
		return errors.New("a daemon still runs")
	}
	var object map[string]any
	if err := json.Unmarshal(job, &object); err != nil {
		return err
	}
	c.jobs[name] = object
	return nil
}

func (c *fakeCluster) JobComplete(_ context.Context, _, name string) (bool, error) {
	return c.complete(c.node(name))
}

// node returns the node of a Job, or "" if the Job does not exist.
func (c *fakeCluster) node(job string) string {
	node, _ := member(c.jobs[job], "spec", "template", "spec")["nodeName"].(string)
	return node
}

// TestEverywhere checks the order of the removal from a cluster (behaviour F36): the DaemonSets and their pods first,
// then a Job on each node. It goes on after errors that pass, and does not fail for a node that is not complete in
// time.
func TestEverywhere(t *testing.T) {
	t.Parallel()
	job := manifest(t)
	for name, tc := range map[string]struct {
		complete func(node string) (bool, error)
		wantLog  string
	}{
		"complete":           {func(string) (bool, error) { return true, nil }, "done=2 of=2"},
		"one node is away":   {func(node string) (bool, error) { return node == "node-a", nil }, "nodes=1"},
		"the API server is":  {func(string) (bool, error) { return false, errAway }, "API server away"},
		"a Job failed":       {func(string) (bool, error) { return false, errFailed }, errFailed.Error()},
		"complete, later on": {laterComplete(), "done=2 of=2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := &fakeCluster{ending: 3, failing: 2, complete: tc.complete, jobs: map[string]map[string]any{}}
				var log bytes.Buffer
				err := Everywhere(t.Context(), c, &FromCluster{
					Namespace: "ns", DaemonSets: []string{"kube-multus-ds", "multus-executor"}, Job: job, Wait: time.Minute,
					Pause: time.Second, Log: slog.New(slog.NewTextHandler(&log, nil)),
				})
				if err != nil || !strings.Contains(log.String(), tc.wantLog) {
					t.Errorf("%v, %s", err, log.String())
				}
				if want := []string{"ns/kube-multus-ds", "ns/multus-executor"}; !slices.Equal(c.deleted, want) {
					t.Errorf("deleted %v", c.deleted)
				}
				if len(c.jobs) != 2 {
					t.Errorf("jobs %v", slices.Collect(maps.Keys(c.jobs)))
				}
				for name, object := range c.jobs {
					if metadata := member(object, "metadata"); len(name) > 63 || metadata["name"] != name ||
						metadata["namespace"] != "ns" || c.node(name) == "NODE" {
						t.Errorf("%s: %v", name, object)
					}
				}
			})
		})
	}
}

// laterComplete returns a state of Jobs that are complete after some looks.
func laterComplete() func(string) (bool, error) {
	looks := 0
	return func(string) (bool, error) { looks++; return looks > 5, nil }
}

// manifest returns the manifest of the Job, with an image.
func manifest(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("../../../deploy/uninstall/job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(b, []byte("IMAGE\n"), []byte("image\n"))
}

// TestEverywhereAgain checks that the Jobs of an earlier removal do not count (behaviour F36): Multus was installed
// again since.
func TestEverywhereAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{complete: func(string) (bool, error) { return true, nil }, jobs: map[string]map[string]any{}}
		for range 2 {
			if err := Everywhere(t.Context(), c, &FromCluster{
				DaemonSets: []string{"a", "b"}, Job: manifest(t), Wait: time.Minute, Pause: time.Second,
				Log: slog.New(slog.DiscardHandler),
			}); err != nil {
				t.Fatal(err)
			}
		}
		if len(c.jobs) != 4 {
			t.Errorf("jobs %v", slices.Collect(maps.Keys(c.jobs)))
		}
	})
}

// TestEverywhereNotBegun checks that nothing is removed from nodes while a DaemonSet exists, and that no DaemonSet is
// deleted for a manifest with which no Job can be created.
func TestEverywhereNotBegun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{ending: 1 << 20, jobs: map[string]map[string]any{}}
		o := &FromCluster{
			DaemonSets: []string{"ds"}, Job: manifest(t), Wait: time.Minute, Pause: time.Second,
			Log: slog.New(slog.DiscardHandler),
		}
		if err := Everywhere(t.Context(), c, o); err == nil || !strings.Contains(err.Error(), "have not ended") {
			t.Errorf("%v", err)
		}
		c.ending = 0
		unfinished, err := os.ReadFile("../../../deploy/uninstall/job.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]string{
			"":                        "is none",
			"a: [":                    "decode",
			"kind: Job\nmetadata: {}": "is none",
			"kind: Pod\nmetadata: {}\nspec: {template: {spec: {}}}": "is none",
			string(unfinished): "replace IMAGE",
		} {
			o.Job = []byte(text)
			if err := Everywhere(t.Context(), c, o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", text, err, want)
			}
		}
		if len(c.jobs) > 0 || len(c.deleted) > 0 {
			t.Errorf("%v, deleted %v", c.jobs, c.deleted)
		}
	})
}
