package podstatus

import (
	"slices"
	"sync"
	"sync/atomic"
)

// lanes orders the keys of a work queue. First attempts go before repeated ones, and at most retriers repeated attempts
// run at a time. The status of a new pod therefore never waits for the statuses that fail. The workqueue serialises all
// calls except those of finished.
type lanes struct {
	// repeated reports whether a key was tried before.
	repeated func(key string) bool

	fresh, again []string
	// active has the keys of the repeated attempts in progress, and running has their number.
	running atomic.Int32
	active  sync.Map
}

// Touch moves a key to the front lane if its next attempt is a first one.
func (l *lanes) Touch(key string) {
	if l.repeated(key) {
		return
	}
	if i := slices.Index(l.again, key); i >= 0 {
		l.again = slices.Delete(l.again, i, i+1)
		l.fresh = append(l.fresh, key)
	}
}

// Push adds a key.
func (l *lanes) Push(key string) {
	if l.repeated(key) {
		l.again = append(l.again, key)
		return
	}
	l.fresh = append(l.fresh, key)
}

// Len returns the number of keys that Pop may return now.
func (l *lanes) Len() int {
	if l.running.Load() >= retriers {
		return len(l.fresh)
	}
	return len(l.fresh) + len(l.again)
}

// Pop removes and returns the next key.
func (l *lanes) Pop() string {
	if len(l.fresh) > 0 {
		return shift(&l.fresh)
	}
	key := shift(&l.again)
	l.running.Add(1)
	l.active.Store(key, nil)
	return key
}

// finished ends an attempt. A repeated key that Len hid is not lost: the worker that calls finished also calls Pop
// next.
func (l *lanes) finished(key string) {
	if _, ok := l.active.LoadAndDelete(key); ok {
		l.running.Add(-1)
	}
}

func shift(keys *[]string) string {
	key := (*keys)[0]
	(*keys)[0] = ""
	*keys = (*keys)[1:]
	return key
}
