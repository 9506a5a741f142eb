package realnode

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"multus/internal/testutil/cluster"
	"multus/internal/testutil/testnet"
)

const (
	// slowPods is the number of pods that run with a slow API server, one after another.
	slowPods = 4
	// verySlow is how long the API server takes for a status so that a container is started before. It is less than the
	// time that the daemon waits for an answer. slow is less than the time that ADD waits with statusWait.
	verySlow, slow = 4 * time.Second, time.Second
)

// waves are the numbers of pods that are created together, in turns. The status of a single pod has the least time.
var waves = []int{1, 4, 15}

// statusPods returns the number of pods that TestStatusBeforeStart runs: STATUS_PODS, or a short run.
func statusPods(t *testing.T) int {
	t.Helper()
	text := os.Getenv("STATUS_PODS")
	if text == "" {
		return 30
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("STATUS_PODS is %q, not a number of pods", text)
	}
	return n
}

// TestStatusBeforeStart compares the moment at which the network status of a pod was seen in the API with the moments
// at which its container was created and started. The ADD of the pod does not wait for the status. With a healthy API
// server no container is started before the status of its pod is there. With a slow one containers are, unless
// statusWait is set.
func TestStatusBeforeStart(t *testing.T) {
	n := start(t, cluster.Options{})
	n.install(t, nodeBase)
	w := n.watchStatuses(t)
	healthy := w.run(t, statusPods(t), waves...)
	healthy.report(t, "API server healthy")
	if early := healthy.early(); early > 0 {
		t.Errorf("%d of %d containers were started before the network status of their pod was there", early, len(healthy))
	}

	hook := n.slowStatuses(t)
	hook.pause.Store(int64(verySlow))
	without := w.run(t, slowPods, 1)
	without.report(t, fmt.Sprintf("%s for each status", verySlow))
	if without.early() == 0 || hook.calls.Load() < slowPods {
		t.Errorf("no container was started before its status, with %d slow answers: what follows shows nothing",
			hook.calls.Load())
	}
	hook.pause.Store(int64(slow))
	n.configure(t, `"logToStderr": true`, `"logToStderr": true, "statusWait": true`)
	waiting := w.run(t, slowPods, 1)
	waiting.report(t, fmt.Sprintf("%s for each status, statusWait", slow))
	if early := waiting.early(); early > 0 || hook.calls.Load() < 2*slowPods {
		t.Errorf("with statusWait, %d of %d containers were started before the status was there; %d slow answers", early,
			len(waiting), hook.calls.Load())
	}
	n.untilHeld(t, 0)
}

// moments are those of one pod. seen is an upper bound of the moment at which the status was written. The processes of
// the container begin to run between created and started.
type moments struct{ seen, created, started time.Time }

type podMoments map[string]moments

// early returns the number of pods whose container was started before the status was seen.
func (m podMoments) early() (n int) {
	for _, p := range m {
		if !p.seen.Before(p.started) {
			n++
		}
	}
	return n
}

// report logs the distances between status and container.
func (m podMoments) report(t *testing.T, what string) {
	t.Helper()
	var created, started []time.Duration
	for _, p := range m {
		created, started = append(created, p.created.Sub(p.seen)), append(started, p.started.Sub(p.seen))
	}
	slices.Sort(created)
	slices.Sort(started)
	before, _ := slices.BinarySearch(created, 0)
	text := fmt.Sprintf("%s: %d pods; from the status to the start of the container %s at least, median %s; to its "+
		"creation %s at least, median %s; started before the status: %d, created before it: %d",
		what, len(m), started[0].Round(time.Microsecond), started[len(started)/2].Round(time.Microsecond),
		created[0].Round(time.Microsecond), created[len(created)/2].Round(time.Microsecond), m.early(), before)
	t.Log(text)
	t.Attr("note", text)
}

// statusWatch follows the pods with the label app=status and the events of containerd.
type statusWatch struct {
	*node
	// count numbers the pods, so that no name is used twice.
	count int

	mu         sync.Mutex
	seen       map[string]time.Time
	containers map[string]string // of pods that run, by pod
	events     map[string]moments
}

// watchStatuses starts a watch that lasts as long as the test.
func (n *node) watchStatuses(t *testing.T) *statusWatch {
	t.Helper()
	w := &statusWatch{
		node: n, seen: map[string]time.Time{}, containers: map[string]string{}, events: map[string]moments{},
	}
	n.watchPods(t, "app=status", w.pod)
	ctx, cancel := context.WithCancel(context.Background())
	ctr := exec.CommandContext(ctx, filepath.Join(root, "bin", "tools", "ctr"), "-a",
		n.Path(n.paths.Run+"/containerd.sock"), "-n", "k8s.io", "events")
	out, err := ctr.StdoutPipe()
	if err == nil {
		err = ctr.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			w.event(lines.Text())
		}
		_ = ctr.Wait() // it is killed below
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

// watchPods calls fn for each change of the selected pods, one call at a time, until the test ends.
func (n *node) watchPods(t *testing.T, selector string, fn func(p *corev1.Pod, now time.Time)) {
	t.Helper()
	config := n.RESTConfig()
	config.Timeout = 0 // it would end the watch
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range pods.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok {
				fn(p, time.Now())
			}
		}
	})
	t.Cleanup(func() {
		pods.Stop()
		wg.Wait()
	})
}

// pod records what a pod shows at a moment.
func (w *statusWatch) pod(p *corev1.Pod, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.seen[p.Name]; !ok && p.Annotations[nadv1.NetworkStatusAnnot] != "" {
		w.seen[p.Name] = now
	}
	if s := p.Status.ContainerStatuses; len(s) == 1 && s[0].State.Running != nil {
		w.containers[p.Name] = strings.TrimPrefix(s[0].ContainerID, "containerd://")
	}
}

// event records an event of containerd, a line such as
// 2006-01-02 15:04:05.999999999 +0000 UTC k8s.io /tasks/start {"container_id":"c","pid":1}.
func (w *statusWatch) event(line string) {
	const form = "2006-01-02 15:04:05 -0700 MST"
	head, body, _ := strings.Cut(line, " {")
	fields := strings.Fields(head)
	if len(fields) != 6 {
		return
	}
	at, err := time.Parse(form, strings.Join(fields[:4], " "))
	var of struct {
		ContainerID string `json:"container_id"`
	}
	if err != nil || json.Unmarshal([]byte("{"+body), &of) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.events[of.ContainerID]
	switch fields[5] {
	case "/tasks/create":
		m.created = at
	case "/tasks/start":
		m.started = at
	}
	w.events[of.ContainerID] = m
}

// run creates pods with one additional network, as many at a time as waves says, deletes them, and returns the moments
// of each.
func (w *statusWatch) run(t *testing.T, pods int, waves ...int) podMoments {
	t.Helper()
	all := podMoments{}
	for i := 0; pods > 0; i++ {
		var names []string
		for range min(pods, waves[i%len(waves)]) {
			w.count++
			names = append(names, fmt.Sprintf("status-%d", w.count))
			w.create(t, names[len(names)-1])
		}
		pods -= len(names)
		wait(t, fmt.Sprintf("%s to %s run and have their status", names[0], names[len(names)-1]), func() error {
			for _, name := range names {
				m, ok := w.of(name)
				if !ok {
					return fmt.Errorf("%s: %+v", name, m)
				}
				all[name] = m
			}
			return nil
		})
		for _, name := range names {
			if err := w.Client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		wait(t, "the pods are gone", func() error {
			if left := w.pods(t, "status"); len(left) > 0 {
				return fmt.Errorf("%d pods", len(left))
			}
			return nil
		})
	}
	return all
}

func (w *statusWatch) create(t *testing.T, name string) {
	t.Helper()
	p := &corev1.Pod{}
	p.Name, p.Labels = name, map[string]string{"app": "status"}
	p.Annotations = map[string]string{nadv1.NetworkAttachmentAnnot: "net-a"}
	p.Spec.TerminationGracePeriodSeconds = new(int64(1))
	p.Spec.Containers = []corev1.Container{
		{Name: "main", Image: cluster.WorkloadImage, ImagePullPolicy: corev1.PullNever},
	}
	if _, err := w.Client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// of returns the moments of a pod, and reports whether all of them are known.
func (w *statusWatch) of(name string) (moments, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.events[w.containers[name]]
	m.seen = w.seen[name]
	return m, !m.seen.IsZero() && !m.created.IsZero() && !m.started.IsZero()
}

// slowHook is an admission webhook that answers after a pause, in nanoseconds, and counts its calls.
type slowHook struct{ pause, calls atomic.Int64 }

// slowStatuses makes the API server slow for the statuses that Multus writes, and for nothing else.
func (n *node) slowStatuses(t *testing.T) *slowHook {
	t.Helper()
	slow := &slowHook{}
	hook := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		slow.calls.Add(1)
		select {
		case <-time.After(time.Duration(slow.pause.Load())):
		case <-r.Context().Done():
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review) // the API server may have gone away
	}))
	_ = hook.Listener.Close()
	(&testnet.NS{Path: fmt.Sprintf("/proc/%d/ns/net", n.Pid())}).Do(t, func() {
		var err error
		if hook.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	})
	hook.StartTLS()
	t.Cleanup(hook.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})
	ignore, none := admissionregistrationv1.Ignore, admissionregistrationv1.SideEffectClassNone
	conf := &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "slow-statuses"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "slow.statuses.test", AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &ignore,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: new(hook.URL), CABundle: ca},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Update},
				Rule: admissionregistrationv1.Rule{
					APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/status"},
				},
			}},
			MatchConditions: []admissionregistrationv1.MatchCondition{{
				Name: "multus", Expression: "request.userInfo.username == 'system:serviceaccount:kube-system:multus'",
			}},
		}},
	}
	hooks := n.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := hooks.Create(t.Context(), conf, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return slow
}
