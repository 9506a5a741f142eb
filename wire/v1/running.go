package wirev1

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/engine/plan"
	"multus/internal/engine/request"
)

// Paths for the networks of running pods. The runner on the host is their client.
const (
	// PathWork: GET with ?wait= (a duration) returns the Work that there is, at once or as soon as there is some. POST
	// with a WorkDone reports the results.
	PathWork = "/v1/work"
	// PathDiff: POST with a DiffRequest returns Changes.
	PathDiff = "/v1/diff"
)

// Work is the answer to GET PathWork: the pods whose networks may have to be changed. They are handed out again until a
// WorkDone names them.
type Work struct {
	Pods []Pod `json:"pods"`
	// StateDir is the state directory of the node, if the daemon's file sets one.
	StateDir string `json:"stateDir,omitempty"`
	// Linger is how long the runner waits for more work before it ends, as a duration. If the key is absent, the runner
	// decides.
	Linger string `json:"linger,omitempty"`
	// Adopt has the sandboxes of pods of this list that the container runtime attached without calling Multus. They are
	// recorded first. ResultsDir is where the runtime's libcni caches its results.
	Adopt      []Adoption `json:"adopt,omitempty"`
	ResultsDir string     `json:"resultsDir,omitempty"`
	// Delegate has the requests of other clients for single networks. Each is handed out until WorkDone has its result,
	// and a second time at most.
	Delegate []DelegateJob `json:"delegate,omitempty"`
	// Observe requests an Observed, after the pods of this list were changed.
	Observe bool `json:"observe,omitempty"`
}

// Adoption is a sandbox to record.
type Adoption struct {
	Pod         Pod    `json:"pod"`
	ContainerID string `json:"containerID"`
}

// WorkDone is the body of POST PathWork.
type WorkDone struct {
	Results []WorkResult `json:"results"`
	// Delegated has the results of Work.Delegate.
	Delegated []DelegateResult `json:"delegated,omitempty"`
}

// WorkResult is what became of one pod.
type WorkResult struct {
	Pod Pod `json:"pod"`
	// Error is the reason why the pod has to be handed out again, later. It is absent if the pod's networks are as
	// requested, or if it has no sandbox on this node.
	Error string `json:"error,omitempty"`
}

// DiffRequest is the body of POST PathDiff: a sandbox, as the ADD that the runtime would send for it now, and what it
// has.
type DiffRequest struct {
	Request  *Request  `json:"request"`
	Attached []Present `json:"attached"`
	// Delegate is the ID of a DelegateJob with the command ADD. The answer then has at most the one addition that it
	// requests, and none if the sandbox has that network already; a request that is refused is answered with an error. If
	// the key is absent, the whole sandbox is compared.
	Delegate string `json:"delegate,omitempty"`
}

// Present is one attachment of a running sandbox.
type Present struct {
	Name    string `json:"name"`
	IfName  string `json:"ifName"`
	Primary bool   `json:"primary,omitempty"`
	// Owner is "pod" for a network of the pod's annotation, "node" for one of the configuration, and absent if the record
	// does not say.
	Owner    string `json:"owner,omitempty"`
	Resource string `json:"resource,omitempty"`
	Device   string `json:"device,omitempty"`
	// RuntimeConfig and CNIArgs are what was passed by capability, and args.cni of the configuration.
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig,omitempty"`
	CNIArgs       map[string]json.RawMessage `json:"cniArgs,omitempty"`
	// Size is the number of bytes of the configuration.
	Size int `json:"size"`
}

// Changes is the answer to POST PathDiff. The runner checks it (plan.Changes.Validate) before it uses it.
type Changes struct {
	Pod PlannedPod `json:"pod"`
	// Remove has the indexes in DiffRequest.Attached of what is to be deleted, in this order, before anything is added.
	Remove []int `json:"remove,omitempty"`
	// Add has the attachments to make, in this order.
	Add []Attachment `json:"add,omitempty"`
	// Refused has the networks that cannot be added, each with the error of CNI that an ADD would have had.
	Refused []Refused `json:"refused,omitempty"`
	// Stale reports whether the network status has to be written although nothing is changed.
	Stale bool `json:"stale,omitempty"`
	// Ignored has the attachments whose element in the annotation was changed without effect.
	Ignored []Ignored `json:"ignored,omitempty"`
}

// Refused is a network that a running pod requests and cannot get.
type Refused struct {
	Name   string       `json:"name"`
	IfName string       `json:"ifName,omitempty"`
	Error  *types.Error `json:"error"`
}

// Ignored is an attachment whose element was changed. Keys are those of the element.
type Ignored struct {
	Name   string   `json:"name"`
	IfName string   `json:"ifName"`
	Keys   []string `json:"keys"`
}

// FromAttached returns the part of a DiffRequest that describes what a sandbox has. Both share the parts that they
// refer to.
func FromAttached(has []plan.Attached) []Present {
	out := make([]Present, len(has))
	for i := range has {
		a := &has[i]
		out[i] = Present{
			Name: a.Name, IfName: a.IfName, Primary: a.Primary, Owner: string(a.Owner), Resource: a.Resource,
			Device: a.Device, RuntimeConfig: a.RuntimeConfig, CNIArgs: a.CNIArgs, Size: a.Size,
		}
	}
	return out
}

// ToDiff returns the request and what the sandbox has. Both share their parts with the message, which is untrusted: a
// size that no configuration has does not change the room that is left in a plan to more than plan.MaxBytes.
func (m *DiffRequest) ToDiff() (*request.Request, []plan.Attached) {
	has := make([]plan.Attached, len(m.Attached))
	for i := range m.Attached {
		a := &m.Attached[i]
		has[i] = plan.Attached{
			Name: a.Name, IfName: a.IfName, Primary: a.Primary, Owner: plan.Owner(a.Owner), Resource: a.Resource,
			Device: a.Device, RuntimeConfig: a.RuntimeConfig, CNIArgs: a.CNIArgs,
			Size: min(max(a.Size, 0), plan.MaxBytes+1),
		}
	}
	if m.Request == nil {
		return &request.Request{}, has
	}
	return m.Request.ToRequest(), has
}

// FromChanges returns the message for changes. toCNI converts the errors of refused networks.
func FromChanges(c *plan.Changes, toCNI func(error) *types.Error) *Changes {
	m := &Changes{Pod: PlannedPod(c.Pod), Remove: c.Remove, Stale: c.Stale}
	for i := range c.Add {
		m.Add = append(m.Add, fromAttachment(&c.Add[i]))
	}
	for _, u := range c.Refused {
		m.Refused = append(m.Refused, Refused{u.Name, u.IfName, toCNI(u.Err)})
	}
	for _, i := range c.Ignored {
		m.Ignored = append(m.Ignored, Ignored(i))
	}
	return m
}

// ToChanges returns the changes of the message. The message is untrusted: the caller validates the changes.
func (m *Changes) ToChanges() (*plan.Changes, error) {
	c := &plan.Changes{Pod: request.Pod(m.Pod), Remove: m.Remove, Stale: m.Stale}
	for i := range m.Add {
		c.Add = append(c.Add, m.Add[i].toPlan())
	}
	for _, u := range m.Refused {
		if u.Error == nil {
			return nil, fmt.Errorf("network %.253q is refused without an error", u.Name)
		}
		c.Refused = append(c.Refused, plan.Unplugged{Name: u.Name, IfName: u.IfName, Err: u.Error})
	}
	for _, i := range m.Ignored {
		c.Ignored = append(c.Ignored, plan.Ignored(i))
	}
	return c, nil
}
