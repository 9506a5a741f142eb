package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"multus/internal/source/dra"
	"multus/internal/testutil/node"
)

// claim gives a pod the devices of a ResourceClaim.
func (k *kubelet) claim(namespace, pod string, devices ...string) {
	c := &podresourcesv1.DynamicResource{ClaimName: pod + "-claim", ClaimNamespace: namespace}
	for _, d := range devices {
		pool, name, _ := strings.Cut(d, "/")
		c.ClaimResources = append(c.ClaimResources, &podresourcesv1.ClaimResource{
			DriverName: "nic.example.com", PoolName: pool, DeviceName: name,
		})
	}
	k.pods = append(k.pods, &podresourcesv1.PodResources{
		Namespace: namespace, Name: pod, Containers: []*podresourcesv1.ContainerResources{
			{DynamicResources: []*podresourcesv1.DynamicResource{c}},
		},
	})
}

// publish creates the slices of a driver: the devices own0 to own9 of the node, and any0 to any9 of all nodes.
func (s *site) publish(t *testing.T) {
	t.Helper()
	text := func(s string) resourcev1.DeviceAttribute { return resourcev1.DeviceAttribute{StringValue: &s} }
	nodeName, all := "node-a", true
	for pool, spec := range map[string]resourcev1.ResourceSliceSpec{
		"own": {NodeName: &nodeName}, "any": {AllNodes: &all},
	} {
		spec.Driver, spec.Pool = "nic.example.com", resourcev1.ResourcePool{Name: pool, ResourceSliceCount: 1}
		for i := range 10 {
			name := fmt.Sprint(pool, i)
			spec.Devices = append(spec.Devices, resourcev1.Device{
				Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
					dra.ResourceName: text(nic), dra.DeviceID: text("id-of-" + name),
				},
			})
		}
		name := s.ns + "-" + pool
		_, err := s.api.Client().ResourceV1().ResourceSlices().Create(t.Context(), &resourcev1.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec,
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = s.api.Client().ResourceV1().ResourceSlices().Delete(t.Context(), name, metav1.DeleteOptions{})
		})
	}
}

// TestClaimedDevices checks that networks get the devices of a pod's ResourceClaim, and that the daemon sends no
// request for that once it has read the slices: neither for those of its node, nor for those of all nodes (behaviour
// H5, H10, H11). It logs how much longer an ADD takes than with devices of a device plugin.
func TestClaimedDevices(t *testing.T) {
	for _, kind := range node.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			k := newKubelet(t)
			s := deviceSite(t, kind, k)
			s.publish(t)
			const pods = 20
			for i := range pods {
				k.claim(s.ns, fmt.Sprint("claims-", i), "own/own1", "any/any0")
				k.allocate(s.ns, fmt.Sprint("plugin-", i), "b", "a")
			}
			k.serve(t)
			took := map[string][]time.Duration{}
			var before map[string]int
			for i := range pods {
				if i == 1 {
					before = s.api.Requests(t, "multus")
				}
				for name, want := range map[string][]string{
					"claims-": {`fake-dev-a "id-of-any0"`, `fake-dev-b "id-of-own1"`},
					"plugin-": {`fake-dev-a "b"`, `fake-dev-b "a"`},
				} {
					p := s.pod(t, fmt.Sprint(name, i), map[string]string{networks: "dev-a,dev-b"}, true)
					began := time.Now()
					if _, err := s.Add(t, s.Conf(), p); err != nil {
						t.Fatalf("ADD: %v\n%s", err, s.DaemonLog())
					}
					took[name] = append(took[name], time.Since(began))
					got := s.given(t, "ADD", p.ContainerID)
					for j := range got {
						got[j] = strings.Join(strings.Fields(got[j])[:2], " ") // the plugin and deviceID
					}
					if d := cmp.Diff(want, got); d != "" {
						t.Errorf("%s%d (-want +got):\n%s", name, i, d)
					}
					s.delete(t, p)
				}
			}
			after := s.api.Requests(t, "multus")
			for _, what := range []string{
				"LIST resourceslices", "WATCH resourceslices", "GET resourceclaims", "GET pods",
			} {
				if n := after[what] - before[what]; kind == node.Thick && n > 0 {
					t.Errorf("%d requests %s", n, what)
				}
			}
			for name := range took {
				slices.Sort(took[name])
			}
			t.Logf("median of %d ADDs: %s with claims, %s with a device plugin", pods, took["claims-"][pods/2],
				took["plugin-"][pods/2])
		})
	}
}
