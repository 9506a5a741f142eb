// Package realnode holds tests of the image and the manifests on a real Kubernetes node: what a user installs, and how.
package realnode
