package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The calls of this file remove Multus from a cluster. They have the permissions of the Job that does that.

// fleetTimeout limits one of these calls.
const fleetTimeout = 10 * time.Second

// Nodes returns the names of the Linux nodes.
func (c *Client) Nodes(ctx context.Context) ([]string, error) {
	var list struct {
		Items []struct{ Metadata metav1.ObjectMeta }
	}
	req := c.core.Get().AbsPath("/api/v1/nodes").Param("labelSelector", "kubernetes.io/os=linux").
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json")
	if err := do(ctx, req, &list, fleetTimeout); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Metadata.Name
	}
	return names, nil
}

// DeleteDaemonSet requests the deletion of a DaemonSet, which ends when its pods have ended. It returns whether it is
// gone.
func (c *Client) DeleteDaemonSet(ctx context.Context, namespace, name string) (gone bool, err error) {
	body, err := json.Marshal(map[string]string{
		"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": string(metav1.DeletePropagationForeground),
	})
	if err == nil {
		err = do(ctx, c.core.Delete().AbsPath("/apis/apps/v1/namespaces", namespace, "daemonsets", name).Body(body),
			&struct{}{}, fleetTimeout)
	}
	if code(err) == http.StatusNotFound {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("delete daemonset %s/%s: %w", namespace, name, err)
	}
	return false, nil
}

// CreateJob creates a Job from its JSON. It returns nil if a Job of the name exists.
func (c *Client) CreateJob(ctx context.Context, namespace, name string, job []byte) error {
	err := do(ctx, c.core.Post().AbsPath("/apis/batch/v1/namespaces", namespace, "jobs").Body(job), &struct{}{},
		fleetTimeout)
	if err != nil && code(err) != http.StatusConflict {
		return fmt.Errorf("create job %s/%s: %w", namespace, name, err)
	}
	return nil
}

// JobComplete returns whether a Job is complete. If it has failed for good, or does not exist, the error says that.
func (c *Client) JobComplete(ctx context.Context, namespace, name string) (bool, error) {
	var job struct {
		Status struct {
			Conditions []struct{ Type, Status, Reason, Message string }
		}
	}
	err := do(ctx, c.core.Get().AbsPath("/apis/batch/v1/namespaces", namespace, "jobs", name), &job, fleetTimeout)
	if err != nil {
		return false, fmt.Errorf("get job %s/%s: %w", namespace, name, err)
	}
	for _, condition := range job.Status.Conditions {
		switch {
		case condition.Status != string(metav1.ConditionTrue):
		case condition.Type == "Complete":
			return true, nil
		case condition.Type == "Failed":
			return false, fmt.Errorf("job %s/%s: %s: %s", namespace, name, condition.Reason, condition.Message)
		}
	}
	return false, nil
}
