//go:build !failpoint

package failpoint

// At marks a point.
func At(string) {}

// Skip tells whether the step of that name is to be left out, to show that a test would see it.
func Skip(string) bool { return false }
