package realnode

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"multus/internal/testutil/cluster"
	"multus/internal/testutil/kubectl"
)

// extra is the annotation of pods with the two additional networks.
const extra = `{k8s.v1.cni.cncf.io/networks: "net-a,net-b"}`

const container = `
      - {name: main, image: "` + cluster.WorkloadImage + `", imagePullPolicy: Never}`

// pod returns the manifest of a pod. annotations are in YAML's flow style.
func pod(name, annotations string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default, annotations: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:`+container, name, annotations)
}

// controller returns the manifest of a Deployment or StatefulSet. more is added to the specification of the pods.
func controller(kind, name string, replicas int, annotations, more string) string {
	service := ""
	if kind == "StatefulSet" {
		service = "\n  serviceName: " + name
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: %[1]s
metadata: {name: %[2]s, namespace: default}
spec:%[6]s
  replicas: %[3]d
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}, annotations: %[4]s}
    spec:
      terminationGracePeriodSeconds: 1
      %[5]s
      containers:`+container, kind, name, replicas, annotations, more, service)
}

// network returns the manifest of a macvlan network on the node's uplink with addresses of 198.18.<subnet>.0/24.
func network(name string, subnet int) string {
	return fmt.Sprintf(`apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: %[1]s, namespace: default}
spec:
  config: '{"cniVersion":"1.0.0","name":"%[1]s","type":"macvlan","master":"%[2]s","ipam":{"type":"host-local","subnet":"198.18.%[3]d.0/24"}}'
`, name, cluster.Uplink, subnet)
}

// plainClass is a RuntimeClass whose pods are attached without Multus.
const plainClass = `apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: ` + cluster.PlainRuntime + `}
handler: ` + cluster.PlainRuntime

// objects reads the objects of a manifest.
func objects(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	all, err := kubectl.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
