// Package realnode tests the image and the manifests on a real Kubernetes node, installed as users install them.
package realnode
