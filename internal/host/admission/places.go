package admission

import "context"

// places are what requests occupy while their objects are in memory. A request takes several at once, for which it
// waits its turn, so that two requests never wait for each other.
type places struct{ turn, free chan struct{} }

// newPlaces returns n free places.
func newPlaces(n int) *places {
	p := &places{turn: make(chan struct{}, 1), free: make(chan struct{}, n)}
	p.release(n)
	return p
}

// acquire takes n places. It returns false, and takes none, if ctx ends before they are free.
func (p *places) acquire(ctx context.Context, n int) bool {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return false
	}
	for taken := range n {
		select {
		case <-p.free:
		case <-ctx.Done():
			p.release(taken)
			return false
		}
	}
	return true
}

// release gives n places back.
func (p *places) release(n int) {
	for range n {
		p.free <- struct{}{}
	}
}
