// Package bench measures the plugin beside the limit: the same delegates called through libcni without it. All subjects
// take turns in one run on one machine, and what is compared are the ratios and differences of that run, never times of
// different days. `make bench` runs it; without BENCH_OUT only the figures that do not depend on the machine are looked
// at, in every test run (stable_test.go).
package bench
