package hotplug

import (
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
)

// maxLeftovers limits the number of pods that are remembered until they are seen.
const maxLeftovers = 4096

// Leftovers queues pods in whose sandboxes a change has left an attachment that is neither made nor deleted (behaviour
// R33). Neither of the annotations that Observe compares shows it. A pod that was not seen yet is queued when it is.
// Pods are identified by name: for a static pod the record does not have the UID of the API server.
func (q *Queue) Leftovers(pods []request.Pod) {
	var found []request.Pod
	q.mu.Lock()
	for _, pod := range pods {
		if len(q.leftovers) >= maxLeftovers {
			break
		}
		q.leftovers[refOf(pod)] = true
	}
	for _, s := range q.seen {
		if q.leftovers[s.pod.Ref] {
			found = append(found, s.pod.Identity())
		}
	}
	q.mu.Unlock()
	for _, pod := range found {
		q.work.Add(pod)
	}
}

func refOf(pod request.Pod) plan.Ref { return plan.Ref{Namespace: pod.Namespace, Name: pod.Name} }
