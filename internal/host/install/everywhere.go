package install

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Cluster is what Everywhere does in a cluster.
type Cluster interface {
	// Nodes returns the names of the nodes on which Multus may be.
	Nodes(ctx context.Context) ([]string, error)
	// DeleteDaemonSet requests the deletion of a DaemonSet, and returns whether it is gone with its pods.
	DeleteDaemonSet(ctx context.Context, namespace, name string) (gone bool, err error)
	// CreateJob creates a Job from JSON. A Job of this name that exists is left as it is.
	CreateJob(ctx context.Context, namespace, name string, job []byte) error
	// JobComplete returns whether a Job is complete. The error says if it never will be.
	JobComplete(ctx context.Context, namespace, name string) (bool, error)
}

const (
	// pollPause is the pause between two looks at the cluster.
	pollPause = 2 * time.Second
	// maxNamed limits the number of nodes that a message names.
	maxNamed = 10
	// jobPrefix begins the names of the Jobs.
	jobPrefix = "multus-uninstall-"
	// imagePlaceholder stands for the image in deploy/uninstall/job.yaml.
	imagePlaceholder = "IMAGE"
)

// FromCluster has the options of Everywhere.
type FromCluster struct {
	Namespace  string
	DaemonSets []string
	// Job is the manifest of the Job for one node, in YAML, whose name and node are replaced.
	Job []byte
	// Wait limits the time, and Pause is that between two looks.
	Wait, Pause time.Duration
	Log         *slog.Logger
}

// Everywhere removes Multus from all nodes of a cluster: it deletes the DaemonSets, so that no daemon writes its
// configuration again, and then creates a Job on each node, which calls Uninstall. It waits for the Jobs at most until
// Wait has passed. A Job that is not complete by then continues without it, and is no error: it waits for the pods of
// its node that are attached through Multus. Everywhere can be repeated. The Jobs of an earlier call do not count,
// because Multus may have been installed again since.
func Everywhere(ctx context.Context, c Cluster, o *FromCluster) error {
	job, err := parseJob(o.Job)
	if err != nil {
		return err
	}
	run := rand.Text()
	ctx, cancel := context.WithTimeoutCause(ctx, o.Wait, fmt.Errorf("not done within %s", o.Wait))
	defer cancel()
	for _, name := range o.DaemonSets {
		if err := o.until(ctx, func() (bool, error) { return c.DeleteDaemonSet(ctx, o.Namespace, name) }); err != nil {
			return fmt.Errorf("the pods of daemonset %s/%s have not ended: %w", o.Namespace, name, err)
		}
		o.Log.Info("deleted", "daemonset", o.Namespace+"/"+name)
	}
	var nodes []string
	err = o.until(ctx, func() (_ bool, err error) { nodes, err = c.Nodes(ctx); return true, err })
	if err != nil {
		return err
	}
	for _, node := range nodes {
		name := jobName(node, run)
		body, err := job.named(o.Namespace, name, node)
		if err != nil {
			return err
		}
		if err := o.until(ctx, func() (bool, error) { return true, c.CreateJob(ctx, o.Namespace, name, body) }); err != nil {
			return err
		}
	}
	return o.await(ctx, c, nodes, run)
}

// await waits until the Jobs of a run are complete, and reports the nodes that are not.
func (o *FromCluster) await(ctx context.Context, c Cluster, nodes []string, run string) error {
	left := nodes
	err := o.until(ctx, func() (bool, error) {
		var still []string
		var failures []error
		for _, node := range left {
			complete, err := c.JobComplete(ctx, o.Namespace, jobName(node, run))
			if !complete {
				still, failures = append(still, node), append(failures, err)
			}
		}
		if len(still) != len(left) {
			o.Log.Info("removed from nodes", "done", len(nodes)-len(still), "of", len(nodes))
		}
		left = still
		return len(left) == 0, errors.Join(failures...)
	})
	if err == nil {
		return nil
	}
	named := left[:min(len(left), maxNamed)]
	o.Log.Warn("the jobs of some nodes are not complete and continue: they wait for pods that are attached through "+
		"Multus, or for a node that is not ready", "nodes", len(left), "some", strings.Join(named, " "),
		"see", "kubectl -n "+o.Namespace+" logs -l app=multus-uninstall", "err", err)
	return nil
}

// until calls done until it returns true without an error. It returns the last error when ctx ends.
func (o *FromCluster) until(ctx context.Context, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(o.Pause):
		}
	}
}

// jobManifest is the manifest of a Job. metadata and pod are parts of object.
type jobManifest struct{ object, metadata, pod map[string]any }

// parseJob parses the manifest of the Job of a node, and checks that it is one with an image.
func parseJob(manifest []byte) (*jobManifest, error) {
	j := &jobManifest{}
	if err := yaml.Unmarshal(manifest, &j.object); err != nil {
		return nil, fmt.Errorf("decode the manifest of the job: %w", err)
	}
	j.metadata, j.pod = member(j.object, "metadata"), member(j.object, "spec", "template", "spec")
	if j.object["kind"] != "Job" || j.metadata == nil || j.pod == nil {
		return nil, errors.New("the manifest of the job is none: it has the kind Job, metadata and spec.template.spec")
	}
	containers, _ := j.pod["containers"].([]any)
	for _, c := range containers {
		if c, _ := c.(map[string]any); c["image"] == imagePlaceholder {
			return nil, fmt.Errorf("the manifest of the job has no image: replace %s", imagePlaceholder)
		}
	}
	delete(j.metadata, "generateName")
	return j, nil
}

// named returns the JSON of the Job with this name for a node.
func (j *jobManifest) named(namespace, name, node string) ([]byte, error) {
	j.metadata["name"], j.metadata["namespace"], j.pod["nodeName"] = name, namespace, node
	b, err := json.Marshal(j.object)
	if err != nil {
		return nil, fmt.Errorf("encode the job: %w", err)
	}
	return b, nil
}

// member returns the object that is reached by the keys of a path. It returns nil if a key is missing, or if its value
// is no object.
func member(object map[string]any, path ...string) map[string]any {
	for _, key := range path {
		object, _ = object[key].(map[string]any)
	}
	return object
}

// jobName returns the name of the Job of a run for a node, which a Job may have also if that of the node is long.
func jobName(node, run string) string {
	sum := sha256.Sum256([]byte(run + "/" + node))
	return jobPrefix + hex.EncodeToString(sum[:8])
}
