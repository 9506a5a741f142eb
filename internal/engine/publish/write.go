package publish

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/engine/request"
)

// Prepared is what is written about a report. The results of the report are decoded and the status is encoded once.
type Prepared struct {
	Events  []Event
	pod     request.Pod
	status  string
	unready *Unready
	// attached reports whether the report is about what is attached, although nothing of it may have anything to show.
	attached bool
}

// Prepare prepares the status and the events of a report. A status larger than MaxStatus is shortened. If the results
// of the report cannot be decoded, the error wraps ErrRefused.
func Prepare(r *Report) (*Prepared, error) {
	results, err := r.results()
	if err == nil {
		var leftOut string
		p := &Prepared{pod: r.Pod, unready: r.Unready, attached: r.HasStatus()}
		if p.status, leftOut, err = shortened(r, results); err == nil {
			if p.status == "" && r.Command == request.Update && r.HasStatus() {
				p.status = "[]" // a running pod has lost all of its interfaces
			}
			p.Events = events(r, results, leftOut)
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: status of pod %s/%s: %w", ErrRefused, r.Pod.Namespace, r.Pod.Name, err)
}

// Status returns the value of the network status, or "" if none is written.
func (p *Prepared) Status() string { return p.status }

// WriteStatus writes the network-status annotation, and with it the condition of the pod's readiness gate. A pod that
// is gone is not an error. A report without anything to show writes nothing (behaviour D121, D123).
func (p *Prepared) WriteStatus(ctx context.Context, c Cluster, key string) error {
	if !p.attached {
		return nil
	}
	if err := c.SetStatus(ctx, p.pod, key, p.status, p.unready); err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("write status of pod %s/%s: %w", p.pod.Namespace, p.pod.Name, err)
	}
	return nil
}

// WriteStatus prepares a report and writes its network-status annotation.
func WriteStatus(ctx context.Context, c Cluster, r *Report, key string) error {
	p, err := Prepare(r)
	if err != nil {
		return err
	}
	return p.WriteStatus(ctx, c, key)
}

// WriteEvents writes the events of a report in order. It continues after a failure.
func WriteEvents(ctx context.Context, c Cluster, r *Report) error {
	events, err := Events(r)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range events {
		errs = append(errs, Emit(ctx, c, r.Pod, e))
	}
	return errors.Join(errs...)
}

// Emit writes one event of a pod. A pod that is gone is not an error. The error wraps ErrRetry if the event may be
// written later.
func Emit(ctx context.Context, c Cluster, pod request.Pod, e Event) error {
	if err := c.Emit(ctx, pod, e); err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("emit event %s of pod %s/%s: %w", e.Reason, pod.Namespace, pod.Name, err)
	}
	return nil
}
