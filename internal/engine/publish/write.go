package publish

import (
	"context"
	"errors"
	"fmt"
)

// WriteStatus writes the network-status annotation of a report, by one request. A pod that is gone is no
// failure; a report without anything to show writes nothing (behaviour.md D121, D123).
func WriteStatus(ctx context.Context, c Cluster, r *Report, key string) error {
	value, err := Status(r)
	if err != nil || value == "" {
		return err
	}
	err = c.SetAnnotation(ctx, r.Pod, key, value)
	if err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("write status of pod %s/%s: %w", r.Pod.Namespace, r.Pod.Name, err)
	}
	return nil
}

// WriteEvents emits the events of a report in order, all of them whatever fails.
func WriteEvents(ctx context.Context, c Cluster, r *Report) error {
	events, err := Events(r)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range events {
		if err := c.Emit(ctx, r.Pod, e); err != nil && !errors.Is(err, ErrGone) {
			errs = append(errs, fmt.Errorf("emit event %s of pod %s/%s: %w", e.Reason, r.Pod.Namespace, r.Pod.Name, err))
		}
	}
	return errors.Join(errs...)
}
