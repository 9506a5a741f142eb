package kube

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// condition is the pod condition of the readiness gate of Multus. All of its keys are sent, because a strategic merge
// patch keeps the value of a missing one.
type condition struct {
	Type               string `json:"type"`
	Status             string `json:"status"`
	Reason             string `json:"reason"`
	Message            string `json:"message"`
	LastTransitionTime string `json:"lastTransitionTime"`
}

// next returns the condition that follows from a report. A condition whose status stays keeps its time.
func (c *condition) next(unready *publish.Unready, now time.Time) condition {
	n := condition{Type: publish.Gate, Status: "True", Reason: publish.NetworksAttached}
	if unready != nil {
		n.Status, n.Reason, n.Message = "False", unready.Reason, unready.Message
	}
	n.LastTransitionTime = now.UTC().Format(time.RFC3339)
	if c.Status == n.Status {
		n.LastTransitionTime = cmp.Or(c.LastTransitionTime, n.LastTransitionTime)
	}
	return n
}

// gated is the part of a pod that decides about the readiness gate of Multus.
type gated struct {
	Spec struct {
		ReadinessGates []struct {
			ConditionType string `json:"conditionType"`
		} `json:"readinessGates"`
	} `json:"spec"`
	// Status is decoded only for a pod that lists the gate.
	Status json.RawMessage `json:"status"`
}

// condition returns the condition of the readiness gate, which is empty if the pod has none yet, or nil if the pod does
// not list the gate.
func (g *gated) condition() (*condition, error) {
	for _, one := range g.Spec.ReadinessGates {
		if one.ConditionType != publish.Gate {
			continue
		}
		var status conditions
		if err := unmarshalIf(g.Status, &status); err != nil {
			return nil, fmt.Errorf("decode conditions: %w", err)
		}
		for i := range status.Conditions {
			if status.Conditions[i].Type == publish.Gate {
				return &status.Conditions[i], nil
			}
		}
		return &condition{}, nil
	}
	return nil, nil //nolint:nilnil // not listed
}

// gateOf returns the condition of an encoded pod, as gated.condition does. Most pods do not contain the name of the
// gate, and are not decoded.
func gateOf(body []byte) (*condition, error) {
	if !bytes.Contains(body, []byte(publish.Gate)) {
		return nil, nil //nolint:nilnil // not listed
	}
	var g gated
	if err := json.Unmarshal(body, &g); err != nil {
		return nil, err
	}
	return g.condition()
}

// gates has the conditions of the pods that WatchPods has seen, by UID: nil for a pod that does not list the gate.
type gates struct {
	mu   sync.Mutex
	pods map[types.UID]*condition
}

func (g *gates) of(uid types.UID) (gate *condition, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gate, known = g.pods[uid]
	return gate, known
}

func (g *gates) set(uid types.UID, gate *condition) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pods == nil {
		g.pods = map[types.UID]*condition{}
	}
	g.pods[uid] = gate
}

func (g *gates) drop(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.pods, uid)
}

// statusWrite is one call of SetStatus.
type statusWrite struct {
	pod         request.Pod
	annotations map[string]string // nil if only the condition is set
	unready     *publish.Unready
	// gate is the present condition, or nil if the pod does not list the gate or if that is not known.
	gate  *condition
	known bool
}

// find looks up the gate of the pod: what the watch has seen and, for a write that consists of the condition alone, the
// pod. It reports whether there is something to write.
func (c *Client) find(ctx context.Context, w *statusWrite) (bool, error) {
	w.gate, w.known = c.gates.of(types.UID(w.pod.UID))
	if len(w.annotations) > 0 {
		return true, nil
	}
	if !w.known && w.unready == nil {
		return false, nil // no request for a pod that most likely does not list the gate
	}
	if !w.known {
		t := target{verb: "get", resource: "pods", namespace: w.pod.Namespace, name: w.pod.Name}
		err := c.read(ctx, c.core, t, runtime.ContentTypeJSON, c.podRequests, func(b []byte) (err error) {
			w.gate, err = gateOf(b)
			return err
		})
		if err != nil {
			return false, publishError(t, err)
		}
		w.known = true
	}
	if w.gate == nil {
		return false, nil
	}
	next := w.gate.next(w.unready, time.Time{})
	return next.Status != w.gate.Status || next.Reason != w.gate.Reason || next.Message != w.gate.Message, nil
}

// patchStatus makes a write with one PATCH of pods/status: a merge patch, as for every pod, or a strategic merge patch
// if the pod lists the gate, since a merge patch would replace the conditions of the kubelet. If it is not known
// whether it does, the answer to the merge patch is the whole pod, and a pod that lists the gate gets its condition by
// a second PATCH.
func (c *Client) patchStatus(ctx context.Context, w *statusWrite) error {
	t := target{verb: "patch", resource: "pods", subresource: "status", namespace: w.pod.Namespace, name: w.pod.Name}
	patch := statusPatch{Metadata: patchMetadata{UID: w.pod.UID, Annotations: w.annotations}}
	gate := w.gate
	if gate == nil {
		var see func([]byte) error
		if !w.known {
			see = func(b []byte) (err error) { gate, err = gateOf(b); return err }
		}
		if err := c.patchPod(ctx, t, types.MergePatchType, patch, see); err != nil || gate == nil {
			return publishError(t, err)
		}
		patch.Metadata.Annotations = nil // written
	}
	patch.Status = &conditions{Conditions: []condition{gate.next(w.unready, time.Now())}}
	return publishError(t, c.patchPod(ctx, t, types.StrategicMergePatchType, patch, nil))
}

// statusPatch is the body of a PATCH of a pod.
type statusPatch struct {
	Metadata patchMetadata `json:"metadata"`
	Status   *conditions   `json:"status,omitempty"`
}

type conditions struct {
	Conditions []condition `json:"conditions"`
}

// setCondition sets the condition in an encoded pod that lists the gate. It keeps the other conditions as they are.
func setCondition(pod map[string]json.RawMessage, gate *condition, unready *publish.Unready) error {
	var status map[string]json.RawMessage
	if err := unmarshalIf(pod["status"], &status); err != nil {
		return err
	}
	var list []json.RawMessage
	if err := unmarshalIf(status["conditions"], &list); err != nil {
		return err
	}
	mine := len(list)
	for i, item := range list {
		var one condition
		if err := json.Unmarshal(item, &one); err != nil {
			return err
		}
		if one.Type == publish.Gate {
			mine = i
		}
	}
	next, err := json.Marshal(gate.next(unready, time.Now()))
	if err != nil {
		return err
	}
	if status == nil {
		status = map[string]json.RawMessage{}
	}
	status["conditions"], err = json.Marshal(slices.Replace(list, mine, min(mine+1, len(list)), next))
	if err == nil {
		pod["status"], err = json.Marshal(status)
	}
	return err
}

// unmarshalIf is json.Unmarshal for a member that may be absent.
func unmarshalIf(b json.RawMessage, into any) error {
	if len(b) == 0 {
		return nil
	}
	return json.Unmarshal(b, into)
}
