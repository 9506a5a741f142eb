package daemon

// recent remembers the last reports that arrived, and their order.
type recent struct {
	numbers map[string]uint64
	// ring has the same reports; the oldest one is at next.
	ring    []string
	next    int
	arrived uint64
}

func newRecent(size int) *recent {
	return &recent{numbers: map[string]uint64{}, ring: make([]string, size)}
}

// add gives a report the next number. It returns false if the report has one already.
func (r *recent) add(id string) bool {
	if _, ok := r.numbers[id]; ok {
		return false
	}
	delete(r.numbers, r.ring[r.next])
	r.ring[r.next] = id
	r.next = (r.next + 1) % len(r.ring)
	r.arrived++
	r.numbers[id] = r.arrived
	return true
}

// number returns the number of a report, 0 for one that is not remembered any more.
func (r *recent) number(id string) uint64 { return r.numbers[id] }
