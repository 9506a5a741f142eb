package daemon

// recent has the reports that arrived last, in their order of arrival.
type recent struct {
	numbers map[string]uint64
	// ring has the same reports. The oldest one is at next.
	ring    []string
	next    int
	arrived uint64
}

func newRecent(size int) *recent {
	return &recent{numbers: map[string]uint64{}, ring: make([]string, size)}
}

// add numbers a report. It returns false if the report already has a number.
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

// number returns the number of a report, or 0 for a report that has left the ring.
func (r *recent) number(id string) uint64 { return r.numbers[id] }
