package wirev1

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"
)

// DelegateJob is a request of a client of the daemon's socket for one network of a running pod, which the runner
// executes (Work.Delegate).
type DelegateJob struct {
	// ID identifies the request in DiffRequest.Delegate and in DelegateResult. It is unique among all daemons.
	ID string `json:"id"`
	// Command is ADD, DEL or CHECK.
	Command string `json:"command"`
	// Pod and ContainerID name the sandbox as the client does. The UID may be absent.
	Pod         Pod    `json:"pod"`
	ContainerID string `json:"containerID"`
	// Netns is the path of the network namespace as the client names it. If the key is absent, the client did not name it.
	Netns  string `json:"netns,omitempty"`
	IfName string `json:"ifName"`
	// Network is the name in the configuration of the network. If the key is absent, the interface identifies it.
	Network string `json:"network,omitempty"`
}

// DelegateResult is the result of a DelegateJob.
type DelegateResult struct {
	ID string `json:"id"`
	// Result is the result of an ADD that succeeded, in version 1.1.0 of CNI.
	Result json.RawMessage `json:"result,omitempty"`
	// Error is the reason why the request failed. It is absent if it succeeded.
	Error *types.Error `json:"error,omitempty"`
}
