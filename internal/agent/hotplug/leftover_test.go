package hotplug

import (
	"testing"
	"testing/synctest"

	"multus/internal/engine/request"
)

// TestLeftovers checks that a pod in which a change was interrupted is handed out until its networks are as requested,
// although its network status is about the networks that it requests (behaviour R33): whether it is reported before or
// after it is seen, and with whichever UID.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	static := request.Pod{Namespace: web.Namespace, Name: web.Name, UID: "of the runtime"}
	for name, report := range map[string]func(q *Queue){
		"seen before": func(q *Queue) {
			q.Observe(pod("web", ""))
			q.Leftovers([]request.Pod{static})
		},
		"seen later": func(q *Queue) {
			q.Leftovers([]request.Pod{static})
			q.Observe(pod("web", ""))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTime(t, func(t *testing.T, q *Queue) {
				report(q)
				q.hands(t, "web")
				q.done(t, web, "the plugin has failed")
				q.hands(t, "web")
				q.done(t, web, "")
				q.Observe(pod("web", ""))
				q.hands(t)
			})
		})
	}
}

// TestLeftoverGone checks that a pod that takes the name of a deleted one is not compared for it.
func TestLeftoverGone(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		old := pod("web", "")
		q.Observe(old)
		q.Leftovers([]request.Pod{old.Identity()})
		synctest.Wait()
		q.hands(t, "web")
		q.Gone(old)
		q.done(t, old, "the pod is gone")
		q.Observe(pod("web", ""))
		q.hands(t)
	})
}

// TestLeftoversLimited checks that the number of pods that are remembered is limited.
func TestLeftoversLimited(t *testing.T) {
	t.Parallel()
	inTime(t, func(t *testing.T, q *Queue) {
		for n := range maxLeftovers + 1 {
			q.Leftovers([]request.Pod{{Namespace: "team", Name: string(rune('a' + n))}})
		}
		if len(q.leftovers) != maxLeftovers {
			t.Errorf("%d pods", len(q.leftovers))
		}
	})
}
