// Package scale measures what a large cluster costs: what one daemon asks of the API server, and what ten thousand
// network definitions take. `make scale` runs it and writes the figures into docs/scale.md; without SCALE only the
// figures that depend neither on the machine nor on the size are looked at, in every test run (stable_test.go).
package scale
