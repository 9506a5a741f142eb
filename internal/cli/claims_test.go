package cli

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"multus/internal/cniconf"
	"multus/internal/device"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/testutil/testnet"
)

// claimKubelet lists one pod with a claim of two devices.
type claimKubelet struct {
	podresourcesv1.UnimplementedPodResourcesListerServer
}

// List implements podresourcesv1.PodResourcesListerServer.
func (claimKubelet) List(context.Context, *podresourcesv1.ListPodResourcesRequest,
) (*podresourcesv1.ListPodResourcesResponse, error) {
	claim := &podresourcesv1.DynamicResource{ClaimName: "web-0-nic", ClaimNamespace: "team"}
	for _, name := range []string{"vf0", "gpu0"} {
		claim.ClaimResources = append(claim.ClaimResources,
			&podresourcesv1.ClaimResource{DriverName: "nic.example.com", PoolName: "node-a", DeviceName: name})
	}
	return &podresourcesv1.ListPodResourcesResponse{PodResources: []*podresourcesv1.PodResources{{
		Namespace: "team", Name: "web-0", Containers: []*podresourcesv1.ContainerResources{
			{DynamicResources: []*podresourcesv1.DynamicResource{claim}},
		},
	}}}, nil
}

// TestDeviceClaims checks that the devices of claims are listed with the networks that use them: those that the kubelet
// lists, and those that only the ledger has.
func TestDeviceClaims(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for pod, name := range map[string]string{"web-0": "vf0", "old": "vf9"} {
		conf, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"fast","type":"host-device"}`))
		if err != nil {
			t.Fatal(err)
		}
		store := &ledger.Store{Dir: filepath.Join(dir, "state"), Log: slog.New(slog.DiscardHandler)}
		cluster := plan.Attachment{Name: "cluster", Primary: true, IfName: "eth0", Config: conf}
		cluster.Args = request.Args{{request.PodNamespace, "team"}, {request.PodName, pod}}
		fast := plan.Attachment{Name: "team/fast", IfName: "net1", Config: conf, Resource: "r", Device: "id-of-" + name}
		fast.Claim = &device.Claim{
			Namespace: "team", Name: pod + "-nic", Driver: "nic.example.com", Pool: "node-a", Device: name,
		}
		if err := store.Write(ledger.NewRecord(&plan.Plan{
			ContainerID: "c-" + pod, Netns: "/run/netns/" + pod, Attachments: []plan.Attachment{cluster, fast},
		})); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.MkdirTemp("", "kubelet") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Mkdir(filepath.Join(root, "pod-resources"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(root, "pod-resources/kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	podresourcesv1.RegisterPodResourcesListerServer(s, claimKubelet{})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		<-ended
	})
	args := []string{
		"devices", "--state-dir", filepath.Join(dir, "state"), "--lock-file", filepath.Join(dir, "locks"),
		"--kubelet-root", root, "--kubeconfig", filepath.Join(dir, "none"),
	}
	testnet.New(t).Do(t, func() {
		code, out, errs := call(t, nil, append(args, "-o", "json")...)
		var list struct{ Claims []claimRow }
		if err := json.Unmarshal([]byte(out), &list); err != nil || code != OK || len(list.Claims) != 3 {
			t.Fatalf("%d %v %s%s", code, err, out, errs)
		}
		var got []string
		for _, c := range list.Claims {
			got = append(got, strings.Join([]string{c.Pod, c.Claim, c.Device, c.Network, c.Interface}, " "))
		}
		want := []string{
			"team/old team/old-nic vf9 team/fast net1", "team/web-0 team/web-0-nic gpu0  ",
			"team/web-0 team/web-0-nic vf0 team/fast net1",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%q, want %q", got, want)
		}
		code, out, _ = call(t, nil, args...)
		if code != OK || !strings.Contains(out, "nic.example.com/node-a/gpu0  -") ||
			!strings.Contains(out, "no network uses it") {
			t.Errorf("%d\n%s", code, out)
		}
	})
}
