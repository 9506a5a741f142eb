package admission

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPlaces checks that requests of any size get their places in the end, that they never have more than there are,
// and that one that gives up has none.
func TestPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const all = 8
		p := newPlaces(all)
		var mu sync.Mutex
		taken := 0
		add := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			if taken += n; taken > all {
				t.Errorf("%d places are taken", taken)
			}
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				n := 1 + i%all
				if !p.acquire(t.Context(), n) {
					t.Error("no place")
					return
				}
				add(n)
				time.Sleep(time.Millisecond)
				add(-n)
				p.release(n)
			})
		}
		wg.Wait()

		if !p.acquire(t.Context(), 5) {
			t.Error("places are not free")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for range 2 { // the second one does not get its turn
			wg.Go(func() {
				if p.acquire(ctx, 4) {
					t.Error("4 of 3 places are taken")
				}
			})
		}
		wg.Wait()
		if len(p.free) != 3 {
			t.Errorf("%d places are free, want 3", len(p.free))
		}
	})
}
