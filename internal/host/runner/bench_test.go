package runner

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/agent/resync"
	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/netsel"
	"multus/internal/node"
	"multus/internal/testutil/testnet"
	wirev1 "multus/wire/v1"
)

// nodePods is the number of pods that the kubelet runs at most by default.
const nodePods = 110

// benchPod makes the namespace, the record and libcni's results of a pod with the cluster network and one more, and
// returns its network status.
func benchPod(b *testing.B, store *ledger.Store, n int) *plan.Pod {
	b.Helper()
	pod, id := testnet.New(b), fmt.Sprintf("container-%d", n)
	p := &plan.Pod{Ref: plan.Ref{Namespace: "team", Name: fmt.Sprint("pod-", n)}, UID: fmt.Sprint("uid-", n)}
	args := request.Args{{request.PodNamespace, p.Namespace}, {request.PodName, p.Name}, {request.PodUID, p.UID}}
	record := &plan.Plan{ContainerID: id, Netns: pod.Path}
	var attached []publish.Attached
	for i, network := range []string{"cluster", "lan"} {
		ifName, address := []string{"eth0", "net1"}[i], fmt.Sprintf("10.%d.%d.2/24", i, n)
		testnet.Veth(b, pod, ifName, pod, "peer"+ifName)
		testnet.HardwareAddr(b, pod, ifName, "02:00:00:00:00:01")
		testnet.Addr(b, pod, ifName, address)
		conf, err := cniconf.Parse(fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":%q,"type":"bridge","ipam":{"type":"host-local"}}`, network))
		if err != nil {
			b.Fatal(err)
		}
		result := fmt.Sprintf(`{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"veth0"},{"name":%q,`+
			`"mac":"02:00:00:00:00:01","sandbox":%q}],"ips":[{"address":%q,"interface":2}],"dns":{}}`, ifName, pod.Path, address)
		record.Attachments = append(record.Attachments, plan.Attachment{
			Name: network, IfName: ifName, Primary: i == 0, Config: conf, Args: args,
		})
		attached = append(attached, publish.Attached{
			Name: network, IfName: ifName, Primary: i == 0, Result: json.RawMessage(result),
		})
		cached := fmt.Sprintf(`{"kind":"cniCacheV1","containerId":%q,"config":%q,"ifName":%q,"networkName":%q,"netns":%q,"result":%s}`,
			id, base64.StdEncoding.EncodeToString(conf.Bytes()), ifName, network, pod.Path, result)
		dir := ledger.ResultsDir(store.Dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, network+"-"+id+"-"+ifName), []byte(cached), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	if err := store.Write(ledger.NewRecord(record)); err != nil {
		b.Fatal(err)
	}
	status, err := publish.Status(&publish.Report{Attached: attached, Netns: pod.Path})
	if err != nil {
		b.Fatal(err)
	}
	p.Annotations = map[string]string{netsel.Status: status}
	return p
}

// cpu returns the processor time that the process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkObserve measures the processor time of one comparison of a full node: that of the runner, and with the
// daemon's.
func BenchmarkObserve(b *testing.B) {
	testnet.RequireRoot(b)
	r, dir := (&fakeDaemon{socketDir: b.TempDir()}).runner(b, time.Hour)
	store := &ledger.Store{Dir: dir, Boot: node.Boot(), Log: slog.New(slog.DiscardHandler)}
	c := resync.New(resync.Options{
		Every: time.Minute, Next: func(time.Duration) {}, Log: slog.New(slog.DiscardHandler),
		Busy:   func(request.Pod) bool { return false },
		Report: func(_ context.Context, r *publish.Report) { b.Errorf("reported: %+v", r.Events) },
	})
	for n := range nodePods {
		c.Observe(benchPod(b, store, n))
	}
	var runner, daemon time.Duration
	for b.Loop() {
		start := cpu(b)
		var all []*publish.Observation
		err := r.engine.Observe(b.Context(), &request.Request{Command: request.Update, Path: r.path, Config: r.raw}, "",
			func(o *publish.Observation) { all = append(all, o) })
		if err != nil || len(all) != nodePods {
			b.Fatalf("%d sandboxes, %v", len(all), err)
		}
		msg, err := json.Marshal(&batches(all)[0])
		if err != nil {
			b.Fatal(err)
		}
		middle := cpu(b)
		var got wirev1.Observed
		if err := json.Unmarshal(msg, &got); err != nil {
			b.Fatal(err)
		}
		all = all[:0]
		for i := range got.Sandboxes {
			all = append(all, got.Sandboxes[i].ToObservation())
		}
		c.Compare(b.Context(), all, true)
		runner, daemon = runner+middle-start, daemon+cpu(b)-middle
	}
	b.ReportMetric(runner.Seconds()*1000/float64(b.N), "runner-cpu-ms/op")
	b.ReportMetric(daemon.Seconds()*1000/float64(b.N), "daemon-cpu-ms/op")
}
