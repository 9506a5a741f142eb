// Package install puts the plugins into the CNI directory of a node and takes them away again: no shell, no cp, no
// init container (architecture.md, Binaries). Runtimes start these files at any moment, so a file is replaced by
// renaming a whole new one over it and is never opened for writing (P03); and they are removed only when nothing calls
// them any more (P04).
//
// It writes no CNI configuration: that is internal/autoconf. Only internal/host/daemon imports it.
package install
