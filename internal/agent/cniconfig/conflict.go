package cniconfig

import (
	"slices"
	"time"
)

const (
	// conflictWindow and conflictLimit distinguish a configuration conflict from an accident. More than conflictLimit
	// re-assertions within conflictWindow are a conflict.
	conflictWindow = time.Minute
	conflictLimit  = 3
	// backOff is the time in which nothing is written after a conflict was detected.
	backOff = 5 * time.Minute
)

// conflict counts how often the CNI configuration file was put back, and decides when to stop. The zero value has no
// conflict.
type conflict struct {
	asserted []time.Time
	// until is the end of the back-off. It is zero without a conflict.
	until time.Time
}

// allow reports whether the file may be put back now, and whether this call started a back-off.
func (c *conflict) allow(now time.Time) (ok, began bool) {
	if c.active() {
		if now.Before(c.until) {
			return false, false
		}
		*c = conflict{}
	}
	c.asserted = slices.DeleteFunc(c.asserted, func(t time.Time) bool { return now.Sub(t) > conflictWindow })
	if len(c.asserted) >= conflictLimit {
		c.until = now.Add(backOff)
		return false, true
	}
	c.asserted = append(c.asserted, now)
	return true, false
}

// active reports whether a conflict was detected that neither healed nor allow has ended.
func (c *conflict) active() bool { return !c.until.IsZero() }

// healed ends a back-off because the file is in place. The re-assertions still count: if the other program removes the
// file again at once, the next back-off starts at once.
func (c *conflict) healed() { c.until = time.Time{} }
