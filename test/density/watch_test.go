package density

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// seen is the course of one pod. The times are those since its creation.
type seen struct {
	// Sandbox and Ready are measured when the events of the watch arrive: that of the creation, and the first one with the
	// sandbox, which has its networks then, and with the pod Ready.
	Sandbox time.Duration `json:"sandbox"`
	Ready   time.Duration `json:"ready"`
	// Condition is the time from the pod's metadata to its condition Ready, both of which are whole seconds.
	Condition time.Duration `json:"condition"`

	created time.Time
}

// watcher follows the pods of one namespace.
type watcher struct {
	watch.Interface
	cancel context.CancelFunc
	done   chan error
	pods   map[types.UID]*seen
	ready  int
	want   int
}

// watch starts to follow the pods of a namespace, which does not exist yet, until this number is Ready.
func (s *site) watch(ctx context.Context, t *testing.T, namespace string, want int) *watcher {
	t.Helper()
	config := s.RESTConfig()
	config.Timeout = 0 // it would end the watch
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	ctx, cancel := context.WithTimeout(ctx, 2*limit)
	events, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	w := &watcher{events, cancel, make(chan error, 1), map[types.UID]*seen{}, 0, want}
	go func() { w.done <- w.follow() }()
	return w
}

func (w *watcher) stop() {
	w.cancel()
	w.Stop()
}

// wait returns the pods when all are Ready.
func (w *watcher) wait(ctx context.Context, t *testing.T) []seen {
	t.Helper()
	select {
	case err := <-w.done:
		must(t, err)
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	case <-time.After(limit):
		t.Fatalf("not all of %d pods are Ready within %s", w.want, limit)
	}
	var all []seen
	for _, p := range w.pods {
		all = append(all, *p)
	}
	return all
}

// follow returns when all pods are Ready.
func (w *watcher) follow() error {
	for w.ready < w.want {
		e, open := <-w.ResultChan()
		if !open {
			return fmt.Errorf("the watch of pods ended with %d of %d pods Ready", w.ready, w.want)
		}
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			return fmt.Errorf("the watch of pods has failed: %+v", e.Object)
		}
		w.see(p, time.Now())
	}
	return nil
}

// see records the state of a pod at the time at which it arrived.
func (w *watcher) see(p *corev1.Pod, now time.Time) {
	one := w.pods[p.UID]
	if one == nil {
		one = &seen{created: now}
		w.pods[p.UID] = one
	}
	for _, c := range p.Status.Conditions {
		switch {
		case c.Status != corev1.ConditionTrue:
		case c.Type == corev1.PodReadyToStartContainers && one.Sandbox == 0:
			one.Sandbox = now.Sub(one.created)
		case c.Type == corev1.PodReady && one.Ready == 0:
			one.Ready = now.Sub(one.created)
			one.Condition = c.LastTransitionTime.Sub(p.CreationTimestamp.Time)
			w.ready++
		}
	}
}
