// Package bench compares the plugin with the lower limit: the same delegates called through libcni without it. All
// subjects take turns in one run on one machine. Only ratios and differences within a run are compared, never times of
// different runs. `make bench` runs it. Without BENCH_OUT, as in every test run, it checks only the figures that do not
// depend on the machine (stable_test.go).
package bench
