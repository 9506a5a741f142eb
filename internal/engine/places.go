package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"multus/internal/fault"
	"multus/internal/fsx"
)

const (
	// places is how many sandboxes can get networks at the same time while they run.
	places = 4
	// placeKey and a number are the keys of the locks of the places.
	placeKey = "networks of running pods "
	// gcPlaceWait is how long GC waits for networks that are being attached.
	gcPlaceWait = 5 * time.Second
)

// A GC passes to each plugin the attachments that it must keep, and the plugin frees all others. So no attachment may
// be made between the reading of the records and the end of the plugin. The runtime ensures that for its ADDs (CNI SPEC
// 1.1: gc is exclusive of add). For networks of running pods, which the runtime does not know, each Apply that adds
// some holds one of several locks, and GC holds all of them.

// lockPlace waits for the place of a sandbox, until ctx ends or for LockLimit.
func (e *Engine) lockPlace(ctx context.Context, containerID string) (*fsx.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, LockLimit)
	defer cancel()
	h := fnv.New32a()
	_, _ = h.Write([]byte(containerID)) // never fails
	l, err := fsx.Acquire(ctx, e.deps.LockFile, place(int(h.Sum32()%places)))
	if err != nil {
		return nil, fmt.Errorf("wait for a GC or another change: %w", err)
	}
	return l, nil
}

// lockPlaces waits until no network of a running pod is being attached, and keeps others from being attached until
// release is called.
func (e *Engine) lockPlaces(ctx context.Context) (release func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, gcPlaceWait)
	defer cancel()
	var held []*fsx.Lock
	release = func() error {
		var errs []error
		for _, l := range held {
			errs = append(errs, l.Release())
		}
		return errors.Join(errs...)
	}
	for i := range places {
		l, err := fsx.Acquire(ctx, e.deps.LockFile, place(i))
		if err != nil {
			return nil, errors.Join(fault.RunningBusy.Wrap(err), release())
		}
		held = append(held, l)
	}
	return release, nil
}

func place(i int) string { return fmt.Sprint(placeKey, i) }
