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
		errs = append(errs, emit(ctx, c, r, e))
	}
	return errors.Join(errs...)
}

// ResumeEvents emits the events of a report from number from on. It returns the number of the first that is to be tried
// again, with an error that wraps ErrRetry; what fails for good is passed over and told at the end.
func ResumeEvents(ctx context.Context, c Cluster, r *Report, from int) (next int, err error) {
	events, err := Events(r)
	if err != nil {
		return 0, err
	}
	var errs []error
	for ; from < len(events); from++ {
		err := emit(ctx, c, r, events[from])
		if errors.Is(err, ErrRetry) {
			return from, err
		}
		errs = append(errs, err)
	}
	return from, errors.Join(errs...)
}

// emit emits one event. A pod that is gone needs none.
func emit(ctx context.Context, c Cluster, r *Report, e Event) error {
	if err := c.Emit(ctx, r.Pod, e); err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("emit event %s of pod %s/%s: %w", e.Reason, r.Pod.Namespace, r.Pod.Name, err)
	}
	return nil
}
