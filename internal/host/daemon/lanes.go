package daemon

import (
	"slices"
	"sync"
	"sync/atomic"
)

// lanes is the order of a work queue: first attempts go before repeated ones, and of those no more than retriers are
// made at a time. However many statuses fail, the status of a new pod does not wait for them. A workqueue calls all
// methods but finished one at a time.
type lanes struct {
	// repeated reports whether a key was tried before.
	repeated func(key string) bool

	fresh, again []string
	// active has the keys of repeated attempts that are being made, running their number.
	running atomic.Int32
	active  sync.Map
}

// Touch moves a key to the front lane if what it stands for is a first attempt now.
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

// Len returns the number of keys that may be taken now.
func (l *lanes) Len() int {
	if l.running.Load() >= retriers {
		return len(l.fresh)
	}
	return len(l.fresh) + len(l.again)
}

// Pop takes the next key.
func (l *lanes) Pop() string {
	if len(l.fresh) > 0 {
		return shift(&l.fresh)
	}
	key := shift(&l.again)
	l.running.Add(1)
	l.active.Store(key, nil)
	return key
}

// finished ends an attempt. The worker that calls it takes the next key itself, so that none is left because of Len.
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
