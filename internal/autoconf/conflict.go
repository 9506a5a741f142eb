package autoconf

import (
	"slices"
	"time"
)

const (
	// conflictWindow and conflictLimit separate a configuration conflict from an accident: a conflict is more
	// re-assertions than the limit within the window.
	conflictWindow = time.Minute
	conflictLimit  = 3
	// backOff is how long nothing is written after a conflict was found.
	backOff = 5 * time.Minute
)

// conflict counts how often the file had to be put back, and decides when to stop. The zero value is no conflict.
type conflict struct {
	asserted []time.Time
	// until is when the back-off ends; zero without a conflict.
	until time.Time
}

// allow reports whether the file may be put back now, and whether this call began a back-off.
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

// active reports whether a conflict was found and has not ended by healed or by allow.
func (c *conflict) active() bool { return !c.until.IsZero() }

// healed ends a back-off because the file is in place. The re-assertions stay counted: a program that removes the file
// again at once is in conflict again at once.
func (c *conflict) healed() { c.until = time.Time{} }
