// Package density measures, on a real node, the time until pods are Ready while many are created: kube-burner creates a
// hundred pods in the shape of its workload node-density-cni, by turns on a node without Multus and on a node with it.
// `make density` runs it and writes the results into docs/performance.md. Without DENSITY, as in every test run, it does
// nothing.
package density
