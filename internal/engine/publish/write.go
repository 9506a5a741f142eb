package publish

import (
	"context"
	"errors"
	"fmt"

	"multus/internal/engine/request"
)

// WriteStatus writes the network-status annotation of a report with one request. A status larger than MaxStatus is
// shortened. A pod that is gone is not an error. A report without anything to show writes nothing (behaviour D121,
// D123). If the results of a report cannot be decoded, the error wraps ErrRefused.
func WriteStatus(ctx context.Context, c Cluster, r *Report, key string) error {
	value, _, err := shortened(r)
	if err != nil {
		return fmt.Errorf("%w: status of pod %s/%s: %w", ErrRefused, r.Pod.Namespace, r.Pod.Name, err)
	}
	if value == "" {
		return nil
	}
	err = c.SetAnnotation(ctx, r.Pod, key, value)
	if err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("write status of pod %s/%s: %w", r.Pod.Namespace, r.Pod.Name, err)
	}
	return nil
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
