package wirev1_test

import (
	"math"
	"testing"

	"multus/internal/engine/plan"
	wirev1 "multus/wire/v1"
)

// TestAttachedSizes checks that a sum of the sizes of a request never makes room in a plan.
func TestAttachedSizes(t *testing.T) {
	t.Parallel()
	m := &wirev1.DiffRequest{Attached: []wirev1.Present{
		{Size: math.MinInt}, {Size: -1}, {Size: 7}, {Size: math.MaxInt}, {Size: math.MaxInt},
	}}
	_, has := m.ToDiff()
	for i, want := range []int{0, 0, 7, plan.MaxBytes + 1, plan.MaxBytes + 1} {
		if has[i].Size != want {
			t.Errorf("size %d becomes %d, want %d", m.Attached[i].Size, has[i].Size, want)
		}
	}
}
