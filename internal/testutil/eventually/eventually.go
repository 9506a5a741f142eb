// Package eventually waits, in tests, for what other goroutines and processes do. Tests of any package import it.
package eventually

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Timeout limits how long a test waits, unless it has a limit of its own.
const Timeout = 60 * time.Second

// Pauses between two looks at a condition: the first one, and the longest one. Each pause doubles the one before.
const (
	firstPause   = 2 * time.Millisecond
	longestPause = 50 * time.Millisecond
)

// Is waits until the condition is true. It returns false after limit.
func Is(limit time.Duration, condition func() bool) bool {
	pause := firstPause
	for end := time.Now().Add(limit); !condition(); time.Sleep(pause) {
		if time.Now().After(end) {
			return false
		}
		pause = min(2*pause, longestPause)
	}
	return true
}

// Within waits until the condition is true. It fails the test after limit.
func Within(tb testing.TB, limit time.Duration, what string, condition func() bool) {
	tb.Helper()
	if !Is(limit, condition) {
		tb.Fatalf("%s: not within %s", what, limit)
	}
}

// True is Within with Timeout.
func True(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	Within(tb, Timeout, what, condition)
}

// NoError repeats try until it returns no error. It fails the test with the last error after limit, or when ctx ends.
func NoError(ctx context.Context, tb testing.TB, limit time.Duration, what string, try func() error) {
	tb.Helper()
	var err error
	Is(limit, func() bool {
		err = try()
		return err == nil || ctx.Err() != nil
	})
	if err != nil {
		tb.Fatalf("%s: not within %s: %v", what, limit, errors.Join(ctx.Err(), err))
	}
}

// Receive returns the next value of a channel. It fails the test after Timeout.
func Receive[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Timeout):
		tb.Fatalf("%s: not within %s", what, Timeout)
		panic("unreachable")
	}
}
