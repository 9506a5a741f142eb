// Package install installs the plugins into the CNI bin directory of a node and removes them again, without a shell, cp
// or an init container (docs/architecture.md). Runtimes start these files at any time. A file is therefore replaced by
// renaming a complete new one over it, and is never opened for writing (multus-cni#1221). Plugins are removed only when
// nothing calls them any more (multus-cni#461).
//
// The package writes no CNI configuration of Multus, which is the task of internal/agent/cniconfig. Only
// cmd/multus-daemon and the other hosts import it.
package install
