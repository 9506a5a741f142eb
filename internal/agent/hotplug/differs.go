package hotplug

import (
	"cmp"
	"encoding/json"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// differs reports whether the network status of a pod may be about other networks than its annotation names. It errs on
// the side of true: networks of the node's configuration are in the status of each pod, and in no annotation. A status
// that cannot be read is written by another program, and is left alone.
func differs(pod *plan.Pod, status string) bool {
	var attached []struct {
		Name, Interface string
		Default         bool
	}
	if json.Unmarshal([]byte(status), &attached) != nil {
		return false
	}
	wanted, err := netsel.Parse(pod.Annotations[netsel.Networks])
	if err != nil {
		return true // the pod gets an event about that
	}
	if len(wanted) != len(attached)-1 {
		return true
	}
	left := map[string]int{}   // attachments by network
	named := map[string]bool{} // network and interface
	for _, a := range attached {
		if !a.Default {
			left[a.Name]++
			named[a.Name+" "+a.Interface] = true
		}
	}
	for i := range wanted {
		e := &wanted[i]
		name := plan.Ref{Namespace: cmp.Or(e.Namespace, pod.Namespace), Name: e.Name}.String()
		left[name]--
		if left[name] < 0 || e.Interface != "" && !named[name+" "+e.Interface] {
			return true
		}
	}
	return false
}
