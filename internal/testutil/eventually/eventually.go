// Package eventually waits, in tests, for what other goroutines do. Tests of any package import it.
package eventually

import (
	"testing"
	"time"
)

const (
	// Timeout limits how long a test waits.
	Timeout = 60 * time.Second
	// interval is the time between two looks at a condition.
	interval = 5 * time.Millisecond
)

// True waits until the condition is true. It fails the test after Timeout.
func True(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	for end := time.Now().Add(Timeout); !condition(); time.Sleep(interval) {
		if time.Now().After(end) {
			tb.Fatalf("%s: not within %s", what, Timeout)
		}
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
