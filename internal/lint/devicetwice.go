package lint

import (
	"fmt"

	"multus/internal/netsel"
)

// checkDeviceTwice reports a network that takes its device from a claim of the pod although its definition names a
// resource: the pod gets another device of it, which no network uses, if the containers request one, or if an injector
// (network-resources-injector) adds that request. It adds none if a container has a request for the resource.
func checkDeviceTwice(r *reporter, p *pod) {
	if !p.hasContainers {
		return
	}
	others := map[string]int{} // networks that take a device of a resource
	for _, e := range p.used() {
		if n := r.networks[e.ref]; n != nil && e.ResourceClaim == nil {
			others[n.resource]++
		}
	}
	for _, e := range p.used() {
		n := r.networks[e.ref]
		if n == nil || n.resource == "" || e.ResourceClaim == nil {
			continue
		}
		fix := fmt.Sprintf("remove the annotation %s from network %s: a network with resourceClaim does not need it",
			netsel.ResourceName, e.ref)
		switch requested := p.resources[n.resource]; {
		case requested == 0:
			r.add(e.object, e.part("resourceClaim"), fix, "network %s takes its device from claim %s, and an injector would "+
				"request another one of %s", e.Name, e.ResourceClaim.Name, n.resource)
		case requested > others[n.resource]:
			r.add(e.object, e.part("resourceClaim"), fmt.Sprintf("request %d", others[n.resource]), "network %s takes its "+
				"device from claim %s, and the containers request %d of %s for %d other networks", e.Name,
				e.ResourceClaim.Name, requested, n.resource, others[n.resource])
		}
	}
}
