// Package eventually waits, in tests, for what other goroutines do. Tests of any package import it.
package eventually

import (
	"testing"
	"time"
)

const (
	// Patience limits how long a test waits.
	Patience = 60 * time.Second
	// interval is the time between two looks at a condition.
	interval = 5 * time.Millisecond
)

// True waits until the condition is true. It fails the test after Patience.
func True(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	for end := time.Now().Add(Patience); !condition(); time.Sleep(interval) {
		if time.Now().After(end) {
			tb.Fatalf("%s: not within %s", what, Patience)
		}
	}
}

// Receive returns the next value of a channel. It fails the test after Patience.
func Receive[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Patience):
		tb.Fatalf("%s: not within %s", what, Patience)
		panic("unreachable")
	}
}
