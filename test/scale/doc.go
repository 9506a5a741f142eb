// Package scale measures the costs of a large cluster: the requests of one daemon to the API server, and the resources
// that ten thousand network definitions need. `make scale` runs it and writes the results into docs/scale.md. Without
// SCALE, as in every test run, it checks only the figures that depend neither on the machine nor on the size
// (stable_test.go).
package scale
