package recent

import "testing"

// TestNames checks that a name is added once, that later names have higher numbers, and that the oldest name makes room
// for the next one.
func TestNames(t *testing.T) {
	t.Parallel()
	n := New(2)
	if !n.Add("a") || !n.Add("b") || n.Add("a") {
		t.Error("a name is added twice, or not at all")
	}
	if n.Number("a") == 0 || n.Number("a") >= n.Number("b") {
		t.Errorf("numbers of a and b: %d, %d", n.Number("a"), n.Number("b"))
	}
	if !n.Add("c") || n.Number("a") != 0 || n.Number("b") >= n.Number("c") {
		t.Errorf("numbers of a, b and c: %d, %d, %d", n.Number("a"), n.Number("b"), n.Number("c"))
	}
	if !n.Add("a") {
		t.Error("a name that was evicted is not added again")
	}
}
