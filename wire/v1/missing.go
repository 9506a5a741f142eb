package wirev1

// PathMissing is the path at which GET returns MissingPods, for tools.
const PathMissing = "/v1/missing"

// MaxMissing is how many pods MissingPods has at most.
const MaxMissing = 1000

// MissingPods is the answer to GET PathMissing: the pods of the node that run without the networks that they request.
type MissingPods struct {
	Pods []MissingPod `json:"pods"`
}

// MissingPod is one of them.
type MissingPod struct {
	Pod         Pod      `json:"pod"`
	ContainerID string   `json:"containerID,omitempty"`
	Networks    []string `json:"networks"`
	// Since is the time in RFC 3339 at which the runtime attached the sandbox, or at which the pod was first seen.
	Since string `json:"since"`
	// Repair is the value of the key repair that applies. Note says why the pod is not repaired.
	Repair string `json:"repair"`
	Note   string `json:"note,omitempty"`
}
