package kube

import (
	"context"
	"encoding/json"

	"k8s.io/apimachinery/pkg/runtime"
)

// Node is the part of a Node object that Multus reads.
type Node struct {
	// ContainerRuntimeVersion is status.nodeInfo.containerRuntimeVersion, such as containerd://2.1.4.
	ContainerRuntimeVersion string
	// Addresses are the IP addresses of the status.
	Addresses []string
}

// Node reads a node, without retries. It returns a *ForbiddenError if the role does not permit that, and
// plan.ErrNotFound if the node does not exist.
func (c *Client) Node(ctx context.Context, name string) (*Node, error) {
	var o struct {
		Status struct {
			NodeInfo struct {
				ContainerRuntimeVersion string `json:"containerRuntimeVersion"`
			} `json:"nodeInfo"`
			Addresses []struct {
				Type    string `json:"type"`
				Address string `json:"address"`
			} `json:"addresses"`
		} `json:"status"`
	}
	t := target{verb: "get", resource: "nodes", name: name}
	decode := func(b []byte) error { return json.Unmarshal(b, &o) }
	err := c.read(ctx, c.core, t, runtime.ContentTypeJSON, c.podRequests, decode)
	if err != nil {
		return nil, lookupError(t, err)
	}
	out := &Node{ContainerRuntimeVersion: o.Status.NodeInfo.ContainerRuntimeVersion}
	for _, a := range o.Status.Addresses {
		if a.Type == "InternalIP" || a.Type == "ExternalIP" {
			out.Addresses = append(out.Addresses, a.Address)
		}
	}
	return out, nil
}
