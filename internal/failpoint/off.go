//go:build !failpoint

package failpoint

// Enabled reports whether the build has points.
const Enabled = false

// At marks a point.
func At(string) {}

// Skip reports whether the step of that name must be omitted, to check that a test detects the omission.
func Skip(string) bool { return false }
