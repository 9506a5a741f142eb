package kube

import (
	"encoding/json"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// The watch of the node's pods reads whole pods, because their readiness gates are in the spec. It does not use the
// decoders of client-go, which need a registered type and read each event several times: a whole pod takes less time
// this way than its metadata takes that way (BenchmarkWatchedPod).

// wholePod is the part of a pod, or of the Status in an event about an error, that is decoded.
type wholePod struct {
	gated
	Metadata struct {
		Namespace       string            `json:"namespace"`
		Name            string            `json:"name"`
		UID             types.UID         `json:"uid"`
		ResourceVersion string            `json:"resourceVersion"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
	Code    int32               `json:"code"`
	Reason  metav1.StatusReason `json:"reason"`
	Message string              `json:"message"`
}

// wholePods is a list of pods.
type wholePods struct {
	Metadata metav1.ListMeta `json:"metadata"`
	Items    []wholePod      `json:"items"`
}

func (l *wholePods) objects() *metav1.List {
	out := &metav1.List{ListMeta: l.Metadata}
	for i := range l.Items {
		out.Items = append(out.Items, runtime.RawExtension{Object: l.Items[i].watched()})
	}
	return out
}

// watchedPod is a pod as the reflector and podStore need it: its metadata, and the condition of its readiness gate, or
// nil if it does not list the gate.
type watchedPod struct {
	metav1.PartialObjectMetadata
	gate *condition
}

// watched returns the pod. Conditions that cannot be decoded are those of no API server, and count as none.
func (p *wholePod) watched() *watchedPod {
	w := &watchedPod{}
	w.Namespace, w.Name, w.UID = p.Metadata.Namespace, p.Metadata.Name, p.Metadata.UID
	w.ResourceVersion, w.Annotations = p.Metadata.ResourceVersion, p.Metadata.Annotations
	w.gate, _ = p.condition()
	return w
}

// podDecoder decodes the events of a watch of pods.
type podDecoder struct {
	body io.ReadCloser
	json *json.Decoder
}

func newPodDecoder(body io.ReadCloser) *podDecoder { return &podDecoder{body, json.NewDecoder(body)} }

// Decode returns the next event. At the end of the stream it returns io.EOF.
func (d *podDecoder) Decode() (watch.EventType, runtime.Object, error) {
	var event struct {
		Type   watch.EventType `json:"type"`
		Object wholePod        `json:"object"`
	}
	if err := d.json.Decode(&event); err != nil {
		return "", nil, err
	}
	if o := &event.Object; event.Type == watch.Error {
		return event.Type, &metav1.Status{
			Status: metav1.StatusFailure, Code: o.Code, Reason: o.Reason, Message: o.Message,
		}, nil
	}
	return event.Type, event.Object.watched(), nil
}

// Close ends the stream.
func (d *podDecoder) Close() { _ = d.body.Close() }
