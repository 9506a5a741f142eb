// Package recent has a set of the names that were added last, in their order. It does not interpret the names, and is
// not for concurrent use. The parts of the agent import it.
package recent

// Names are the names that were added last.
type Names struct {
	numbers map[string]uint64
	// ring has the same names. The oldest one is at next.
	ring  []string
	next  int
	added uint64
}

// New returns a Names for the last size names.
func New(size int) *Names {
	return &Names{numbers: map[string]uint64{}, ring: make([]string, size)}
}

// Add numbers a name. It returns false if the name already has a number.
func (n *Names) Add(name string) bool {
	if _, ok := n.numbers[name]; ok {
		return false
	}
	delete(n.numbers, n.ring[n.next])
	n.ring[n.next] = name
	n.next = (n.next + 1) % len(n.ring)
	n.added++
	n.numbers[name] = n.added
	return true
}

// Number returns the number of a name. A name that was added later has a higher number. The number is 0 for a name that
// was never added, or whose place was taken by a later one.
func (n *Names) Number(name string) uint64 { return n.numbers[name] }
