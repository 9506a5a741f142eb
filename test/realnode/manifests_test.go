package realnode

import "multus/test/cluster"

const container = `
      - {name: main, image: "` + cluster.WorkloadImage + `", imagePullPolicy: Never}`

// podManifest: name, annotations.
const podManifest = `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default, annotations: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:` + container

// deploymentManifest: replicas.
const deploymentManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: many, namespace: default}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}, annotations: {k8s.v1.cni.cncf.io/networks: "net-a,net-b"}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:` + container

// networkManifest: name, name, master, number of the subnet.
const networkManifest = `apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: %s, namespace: default}
spec:
  config: '{"cniVersion":"1.0.0","name":"%s","type":"macvlan","master":"%s","ipam":{"type":"host-local","subnet":"198.18.%d.0/24"}}'
`
