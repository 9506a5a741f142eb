package podresources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"multus/internal/engine/plan"
)

var web = plan.Ref{Namespace: "team-a", Name: "web-0"}

// kubelet is a server of the podresources API.
type kubelet struct {
	podresourcesv1.UnimplementedPodResourcesListerServer
	answer func(call int) (*podresourcesv1.ListPodResourcesResponse, error)
	calls  atomic.Int32
}

func (k *kubelet) List(context.Context,
	*podresourcesv1.ListPodResourcesRequest,
) (*podresourcesv1.ListPodResourcesResponse, error) {
	return k.answer(int(k.calls.Add(1)))
}

// newRoot makes an empty kubelet root directory whose path is short enough for a socket.
func newRoot(tb testing.TB) string {
	tb.Helper()
	root, err := os.MkdirTemp("", "kubelet") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(root) })
	for _, file := range []string{socketFile, checkpointFile} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

func serve(tb testing.TB, root string, k podresourcesv1.PodResourcesListerServer) {
	tb.Helper()
	l, err := net.Listen("unix", filepath.Join(root, socketFile))
	if err != nil {
		tb.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxSendMsgSize(64 << 20))
	if k != nil {
		podresourcesv1.RegisterPodResourcesListerServer(s, k)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Stop()
		<-done
	})
}

func writeCheckpoint(tb testing.TB, root, content string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(root, checkpointFile), []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func podOf(ref plan.Ref, devices ...*podresourcesv1.ContainerDevices) *podresourcesv1.PodResources {
	p := &podresourcesv1.PodResources{Namespace: ref.Namespace, Name: ref.Name}
	for _, d := range devices { // one container each
		p.Containers = append(p.Containers,
			&podresourcesv1.ContainerResources{Devices: []*podresourcesv1.ContainerDevices{d}})
	}
	return p
}

func devicesOf(resource string, ids ...string) *podresourcesv1.ContainerDevices {
	return &podresourcesv1.ContainerDevices{ResourceName: resource, DeviceIds: ids}
}

func TestSocket(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	serve(t, root, &kubelet{answer: func(int) (*podresourcesv1.ListPodResourcesResponse, error) {
		return &podresourcesv1.ListPodResourcesResponse{PodResources: []*podresourcesv1.PodResources{
			podOf(plan.Ref{Namespace: "team-b", Name: "web-0"}, devicesOf("r", "other namespace")),
			podOf(plan.Ref{Namespace: "team-a", Name: "web-00"}, devicesOf("r", "other name")),
			podOf(web, devicesOf("r", "0000:03:02.1", "0000:03:02.0"), devicesOf("s", "b"),
				devicesOf("r", "0000:03:01.7", "0000:03:02.0")),
			podOf(plan.Ref{Namespace: "team-a", Name: "plain"}),
		}}, nil
	}})
	// If the socket exists, nothing else is read (behaviour H2).
	writeCheckpoint(t, root, `{"Data":{"PodDeviceEntries":[{"PodUID":"u","ResourceName":"r","DeviceIDs":{"0":["from the checkpoint"]}}]}}`)
	tests := []struct {
		pod  plan.Ref
		want map[string][]string
	}{
		{web, map[string][]string{"r": {"0000:03:02.0", "0000:03:02.1", "0000:03:01.7"}, "s": {"b"}}},
		{plan.Ref{Namespace: "team-a", Name: "plain"}, map[string][]string{}},
		{plan.Ref{Namespace: "team-a", Name: "none"}, map[string][]string{}},
	}
	for _, tt := range tests {
		got, err := New(Options{Root: root}).Devices(t.Context(), tt.pod, "u")
		if err != nil || !reflect.DeepEqual(got.IDs, tt.want) {
			t.Errorf("Devices(%s) = %v, %v, want %v", tt.pod, got, err, tt.want)
		}
	}
}

// TestClaims checks that the devices of the claims of all pods are listed, and that a kubelet without a socket has
// none.
func TestClaims(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	if got, err := New(Options{Root: root}).Claims(t.Context()); err != nil || got != nil {
		t.Errorf("without a socket: %v, %v", got, err)
	}
	claim := func(name string) *podresourcesv1.ContainerResources {
		return &podresourcesv1.ContainerResources{DynamicResources: []*podresourcesv1.DynamicResource{{
			ClaimName: name, ClaimResources: []*podresourcesv1.ClaimResource{{
				DriverName: "d", PoolName: "p", DeviceName: name + "-dev", ShareId: new("share"),
			}},
		}}}
	}
	serve(t, root, &kubelet{answer: func(int) (*podresourcesv1.ListPodResourcesResponse, error) {
		return &podresourcesv1.ListPodResourcesResponse{PodResources: []*podresourcesv1.PodResources{
			{Namespace: "a", Name: "x", Containers: []*podresourcesv1.ContainerResources{claim("c0"), claim("c1")}},
			podOf(web, devicesOf("r", "id")),
			{Namespace: "b", Name: "y", Containers: []*podresourcesv1.ContainerResources{claim("c2")}},
		}}, nil
	}})
	got, err := New(Options{Root: root}).Claims(t.Context())
	var texts []string
	for i := range got {
		texts = append(texts, got[i].Pod.String()+" "+got[i].Claim+" "+got[i].Device+" "+got[i].ShareID)
	}
	want := []string{"a/x c0 c0-dev share", "a/x c1 c1-dev share", "b/y c2 c2-dev share"}
	if err != nil || !slices.Equal(texts, want) {
		t.Errorf("%q, %v, want %q", texts, err, want)
	}
}

// TestDynamicResources checks that the devices of claims are listed, each once, and that Get is preferred to List
// (behaviour H5).
func TestDynamicResources(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	vf := &podresourcesv1.ClaimResource{DriverName: "nic.example.com", PoolName: "node-a", DeviceName: "vf0"}
	dynamic := []*podresourcesv1.DynamicResource{{
		ClaimName: "web-nic-x7z", ClaimNamespace: "team-a", ClaimResources: []*podresourcesv1.ClaimResource{vf},
	}}
	serve(t, root, getter{pod: &podresourcesv1.PodResources{Containers: []*podresourcesv1.ContainerResources{
		{DynamicResources: dynamic, Devices: []*podresourcesv1.ContainerDevices{devicesOf("r", "a")}},
		{DynamicResources: dynamic},
	}}})
	got, err := New(Options{Root: root}).Devices(t.Context(), web, "u")
	want := &plan.Allocation{
		IDs:     map[string][]string{"r": {"a"}},
		Claimed: []plan.ClaimedDevice{{Claim: "web-nic-x7z", Driver: "nic.example.com", Pool: "node-a", Device: "vf0"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Devices = %+v, %v, want %+v", got, err, want)
	}
}

// getter is a kubelet that serves Get.
type getter struct {
	podresourcesv1.UnimplementedPodResourcesListerServer
	pod *podresourcesv1.PodResources
}

// Get implements the podresources API.
func (g getter) Get(context.Context, *podresourcesv1.GetPodResourcesRequest,
) (*podresourcesv1.GetPodResourcesResponse, error) {
	return &podresourcesv1.GetPodResourcesResponse{PodResources: g.pod}, nil
}

// TestSocketLargeAnswer tests lists that exceed gRPC's default limit of 4 MiB.
func TestSocketLargeAnswer(t *testing.T) {
	t.Parallel()
	for size, ok := range map[int]bool{8 << 20: true, 17 << 20: false} {
		root := newRoot(t)
		serve(t, root, &kubelet{answer: func(int) (*podresourcesv1.ListPodResourcesResponse, error) {
			big := podOf(plan.Ref{Name: "big"}, devicesOf("r", strings.Repeat("x", size)))
			return &podresourcesv1.ListPodResourcesResponse{
				PodResources: []*podresourcesv1.PodResources{big, podOf(web, devicesOf("r", "a"))},
			}, nil
		}})
		got, err := New(Options{Root: root}).Devices(t.Context(), web, "")
		if ok != (err == nil) || ok && len(got.IDs["r"]) != 1 {
			t.Errorf("%d MiB: %v, %v", size>>20, got, err)
		}
	}
}

// TestSocketBurst checks that requests are retried after the kubelet has refused them because of a burst.
func TestSocketBurst(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	serve(t, root, &kubelet{answer: func(call int) (*podresourcesv1.ListPodResourcesResponse, error) {
		if call < listAttempts {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return &podresourcesv1.ListPodResourcesResponse{
			PodResources: []*podresourcesv1.PodResources{podOf(web, devicesOf("r", "a"))},
		}, nil
	}})
	if got, err := New(Options{Root: root}).Devices(t.Context(), web, ""); err != nil || len(got.IDs["r"]) != 1 {
		t.Errorf("Devices = %v, %v", got, err)
	}
}

// TestSocketOfStartingKubelet checks that a request survives a restart of the kubelet, which breaks the connection and
// replaces the socket.
func TestSocketOfStartingKubelet(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	dying, err := net.Listen("unix", filepath.Join(root, socketFile))
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := New(Options{Root: root}).Devices(t.Context(), web, "")
		result <- err
	}()
	conn, err := dying.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = dying.Close() // removes the file: the socket is missing from here on
	_ = conn.Close()
	serve(t, root, &kubelet{answer: func(int) (*podresourcesv1.ListPodResourcesResponse, error) {
		return &podresourcesv1.ListPodResourcesResponse{}, nil
	}})
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// stale makes a socket file on which no process listens.
func stale(tb testing.TB, root string) {
	tb.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(root, socketFile)})
	if err != nil {
		tb.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}

func TestSocketErrors(t *testing.T) {
	t.Parallel()
	failing := func(code codes.Code) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			serve(t, root, &kubelet{answer: func(int) (*podresourcesv1.ListPodResourcesResponse, error) {
				return nil,
					status.Error(code, "m")
			}})
		}
	}
	tests := []struct {
		name      string
		start     func(t *testing.T, root string)
		available bool
		want      string
	}{
		{"no process listens", func(t *testing.T, root string) { stale(t, root) }, false, nextStep},
		{"internal", failing(codes.Internal), true, nextStep},
		{"unavailable", failing(codes.Unavailable), false, nextStep},
		{"always over the limit", failing(codes.ResourceExhausted), false, nextStep},
		{"another service", func(t *testing.T, root string) { serve(t, root, nil) }, true, "too old"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t)
			tt.start(t, root)
			// The checkpoint is no fallback (behaviour H6).
			writeCheckpoint(t, root, `{"Data":{"PodDeviceEntries":[]}}`)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := New(Options{Root: root}).Devices(ctx, web, "u")
			if err == nil {
				t.Fatal("no error")
			}
			if errors.Is(err, plan.ErrUnavailable) == tt.available {
				t.Errorf("errors.Is(%q, ErrUnavailable) = %v", err, !tt.available)
			}
			for _, part := range []string{filepath.Join(root, socketFile), "team-a/web-0", tt.want} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not contain %q", err, part)
				}
			}
		})
	}
}

// entry returns an entry as the kubelet writes it, including keys that Multus does not use.
func entry(uid, container, resource, ids string) string {
	return fmt.Sprintf(`{"PodUID":%q,"ContainerName":%q,"ResourceName":%q,"DeviceIDs":%s,"AllocResp":"EgA="}`, uid,
		container, resource, ids)
}

// TestCheckpoint reads a checkpoint as the kubelet writes it, by the UID of the pod (behaviour H3, H4).
func TestCheckpoint(t *testing.T) {
	t.Parallel()
	file := func(entries ...string) string {
		return `{"Data":{"PodDeviceEntries":[` + strings.Join(entries, ",") +
			`],"RegisteredDevices":{"r":["a"]}},"Checksum":1}`
	}
	tests := []struct {
		name, content string
		want          map[string][]string
		err           string
	}{
		{"none", file(), map[string][]string{}, ""},
		{"null entries", `{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":0}`, map[string][]string{}, ""},
		{"another pod's", file(entry("v", "c", "r", `{"0":["a"]}`)), map[string][]string{}, ""},
		{
			"sorted over NUMA nodes (H4)",
			file(entry("u", "c", "r", `{"1":["0000:03:02.1"],"0":["0000:03:02.3"],"-1":["0000:03:02.0"]}`)),
			map[string][]string{"r": {"0000:03:02.0", "0000:03:02.1", "0000:03:02.3"}},
			"",
		},
		{
			"containers and resources", file(entry("u", "c", "r", `{"0":["b"]}`), entry("v", "c", "r", `{"0":["x"]}`),
				entry("u", "d", "r", `{"0":["a"]}`), entry("u", "d", "s", `{"0":["1"]}`)),
			map[string][]string{"r": {"b", "a"}, "s": {"1"}},
			"",
		},
		{
			"in the order of the containers (multus-cni#1539)",
			file(entry("u", "c1", "r", `{"0":["0000:3b:02.7"],"1":["0000:3b:02.5"]}`),
				entry("u", "c2", "r", `{"0":["0000:3b:02.1","0000:3b:02.5"]}`)),
			map[string][]string{"r": {"0000:3b:02.5", "0000:3b:02.7", "0000:3b:02.1"}},
			"",
		},
		{
			"a device of two NUMA nodes is listed once", file(entry("u", "c", "r", `{"0":["a"],"1":["a"]}`)),
			map[string][]string{"r": {"a"}},
			"",
		},
		{"empty file", "", nil, "empty"},
		{"cut", file(entry("u", "c", "r", `{"0":["a"]}`))[:60], nil, "unexpected end"},
		{"another structure", `{"Data":{"PodDeviceEntries":[{"PodUID":"u","DeviceIDs":["a"]}]}}`, nil, "DeviceIDs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t)
			writeCheckpoint(t, root, tt.content)
			got, err := New(Options{Root: root}).Devices(t.Context(), web, "u")
			if tt.err != "" {
				for _, part := range []string{tt.err, filepath.Join(root, checkpointFile), nextStep} {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("error %v does not contain %q", err, part)
					}
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got.IDs, tt.want) {
				t.Errorf("Devices = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestCheckpointNeedsUID(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	writeCheckpoint(t, root, `{"Data":{"PodDeviceEntries":[{"ResourceName":"r","DeviceIDs":{"0":["a"]}}]}}`)
	if got, err := New(Options{Root: root}).Devices(t.Context(), web, ""); err == nil ||
		!strings.Contains(err.Error(), "UID") {
		t.Errorf("Devices = %v, %v", got, err)
	}
}

func TestNoKubelet(t *testing.T) {
	t.Parallel()
	_, err := New(Options{Root: "/nonexistent"}).Devices(t.Context(), web, "u")
	for _, part := range []string{"/nonexistent/" + socketFile, "/nonexistent/" + checkpointFile, nextStep} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not contain %q", err, part)
		}
	}
	if k := New(Options{}); k.root != "/var/lib/kubelet" {
		t.Errorf("default root is %q", k.root)
	}
}

// FuzzCheckpoint checks that any file gives a result or an error, and only devices of the pod.
func FuzzCheckpoint(f *testing.F) {
	f.Add([]byte(`{"Data":{"PodDeviceEntries":[`+entry("u", "c", "r",
		`{"0":["b","a"],"1":["a"]}`)+`],"RegisteredDevices":{}},"Checksum":1}`), "u")
	f.Add([]byte(`{"Data":{"PodDeviceEntries":null}}`), "u")
	f.Add([]byte(`{"Data":[]}`), "")
	f.Add([]byte(`{"data":{"podDeviceEntries":[{"podUID":"u","resourceName":"","deviceIDs":{"":[]}}]}}`), "u")
	f.Fuzz(func(t *testing.T, data []byte, uid string) {
		devices, err := parseCheckpoint(data, uid)
		if err != nil {
			if devices != nil {
				t.Errorf("both devices and the error %v", err)
			}
			return
		}
		var c checkpoint
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, e := range c.Data.PodDeviceEntries {
			if e.PodUID == uid {
				for ids := range maps.Values(e.DeviceIDs) {
					for _, id := range ids {
						have[e.ResourceName+"\x00"+id] = true
					}
				}
			}
		}
		for name, ids := range devices {
			if slices.ContainsFunc(ids, func(id string) bool { return !have[name+"\x00"+id] }) {
				t.Errorf("%s: %v has a device of another pod", name, ids)
			}
		}
	})
}
