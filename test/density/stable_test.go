package density

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestQuantile checks that the 99th percentile of a hundred pods leaves one pod out, and that the median of the rounds
// does not depend on their order.
func TestQuantile(t *testing.T) {
	t.Parallel()
	var m measured
	for i := range 100 {
		m.Pods = append(m.Pods, seen{Ready: time.Duration(100-i) * time.Second})
	}
	for q, want := range map[float64]float64{0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(q, ready)(m); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	r := &results{}
	for _, n := range []int{4, 1, 3, 2} {
		r.Turns = append(r.Turns, measured{Subject: plain, Restarts: n}, measured{Subject: macvlan, Restarts: 100})
	}
	if got := median(r.of(plain, func(m measured) float64 { return float64(m.Restarts) })); got != 2.5 {
		t.Errorf("median is %g, want 2.5", got)
	}
}

// TestSee checks that the times of a pod are those of the first event with a condition, and that a pod is counted once.
func TestSee(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	created := metav1.NewTime(begin.Truncate(time.Second))
	event := func(conditions ...corev1.PodCondition) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{UID: "one", CreationTimestamp: created},
			Status:     corev1.PodStatus{Conditions: conditions},
		}
	}
	sandbox := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue}
	ready := corev1.PodCondition{
		Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(created.Add(4 * time.Second)),
	}
	unready := ready
	unready.Status = corev1.ConditionFalse
	w := &watcher{pods: map[types.UID]*seen{}}
	for after, p := range []*corev1.Pod{
		event(), event(unready), event(sandbox, unready), event(sandbox, ready), event(sandbox, ready),
	} {
		w.see(p, begin.Add(time.Duration(after)*time.Second))
	}
	want := seen{Sandbox: 2 * time.Second, Ready: 3 * time.Second, Condition: 4 * time.Second, created: begin}
	if got := *w.pods["one"]; got != want || w.ready != 1 {
		t.Errorf("got %+v, %d pods Ready; want %+v, 1", got, w.ready, want)
	}
}

// TestMarkdown checks the ratios of the table, and that a budget that is missed is said to be.
func TestMarkdown(t *testing.T) {
	t.Parallel()
	r := &results{Rounds: 3}
	for range r.Rounds {
		for i, one := range subjects {
			took := time.Duration(10+i) * time.Second
			r.Turns = append(r.Turns, measured{
				Subject: one.name, DaemonPeak: 28 << 20, Failures: 1,
				Pods: []seen{{Ready: took, Condition: took, Sandbox: took / 2}},
			})
		}
	}
	text := r.markdown()
	for _, want := range []string{
		"| Ready, p99, s | 10.00 (10.00 to 10.00) | 11.00 (11.00 to 11.00) | 1.10 | 12.00 (12.00 to 12.00) | 1.20 |\n",
		": " + plain + " | ≤ 1.15 | 1.10 | yes |\n", ": " + macvlan + " | ≤ 1.15 | 1.20 | **no**",
		"| sandboxes that failed | 3 | 3 | 3 |\n", "(VmHWM), MiB | – | 28.0 | 28.0 |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
