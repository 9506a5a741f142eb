package publish

import (
	"context"
	"errors"
	"fmt"
)

// WriteStatus writes the network-status annotation of a report, by one request. A status larger than MaxStatus is
// shortened. A pod that is gone is no failure; a report without anything to show writes nothing (behaviour.md D121,
// D123). The error of a report whose results cannot be decoded wraps ErrRefused.
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

// WriteEvents records the events of a report in order. An event that fails does not stop the others.
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

// Emit records one event of a pod. A pod that is gone needs none: that is no error. An error that may succeed later
// wraps ErrRetry.
func Emit(ctx context.Context, c Cluster, pod Pod, e Event) error {
	if err := c.Emit(ctx, pod, e); err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("emit event %s of pod %s/%s: %w", e.Reason, pod.Namespace, pod.Name, err)
	}
	return nil
}
