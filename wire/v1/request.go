package wirev1

import "multus/internal/engine/request"

// Request is the body of POST PathPlan: one CNI call of the container runtime, for which the plugin needs a plan. The
// plugin writes it with AppendJSON, and the daemon reads it.
type Request struct {
	// Command is the verb of the call: ADD, DEL, CHECK, GC or STATUS.
	Command string `json:"command"`
	// ContainerID, Netns and IfName are CNI_CONTAINERID, CNI_NETNS and CNI_IFNAME. They are empty for GC and STATUS.
	ContainerID string `json:"containerID"`
	Netns       string `json:"netns"`
	IfName      string `json:"ifName"`
	// Args are the pairs of CNI_ARGS in their order, each an array of key and value. The key is absent if the
	// runtime passed no CNI_ARGS.
	Args [][2]string `json:"args,omitempty"`
	// Path is CNI_PATH.
	Path string `json:"path"`
	// Config is the plugin's standard input, byte for byte, in base64.
	Config []byte `json:"config"`
}

// FromRequest returns the message for a request. Both share their slices.
func FromRequest(r *request.Request) *Request {
	return &Request{
		Command: r.Command, ContainerID: r.ContainerID, Netns: r.Netns, IfName: r.IfName, Args: r.Args, Path: r.Path,
		Config: r.Config,
	}
}

// ToRequest returns the request of the message. Both share their slices. The message is untrusted: a verb or a
// configuration that does not exist is refused by the planner.
func (m *Request) ToRequest() *request.Request {
	return &request.Request{
		Command: m.Command, ContainerID: m.ContainerID, Netns: m.Netns, IfName: m.IfName, Args: m.Args, Path: m.Path,
		Config: m.Config,
	}
}
