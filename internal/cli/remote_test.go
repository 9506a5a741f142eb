package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOtherNode checks that --node runs kubectl with the daemon's pod on that node, and passes its output on.
func TestOtherNode(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	kubectl := func(body string) {
		t.Helper()
		script := "#!/bin/sh\necho \"$@\" >>" + dir + "/log\ncase \"$*\" in\n" + body + "\nesac\n"
		if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const found = `*"get pods"*) echo pod/kube-multus-ds-abc;;` + "\n"
	const ended = "echo 'command terminated with exit code %d' >&2; exit %[1]d;;"
	tests := []struct {
		name, kubectl, out, errs string
		code                     int
	}{
		{"doctor finds nothing", found + `*exec*) echo "ok netns";;`, "ok netns\n", "", OK},
		{
			"doctor finds a fault", found + `*exec*) echo "FOUND netns";` + fmt.Sprintf(ended, Found), "FOUND netns\n", "",
			Found,
		},
		{
			"doctor fails", found + `*exec*) echo "error: no" >&2;` + fmt.Sprintf(ended, Found), "", "error: no\n",
			Found,
		},
		{
			"doctor has no such flag", found + `*exec*) echo "error: unknown flag" >&2;` + fmt.Sprintf(ended, Usage), "",
			"error: unknown flag\n", Usage,
		},
		{
			"the image has no multusctl", found + `*exec*)` + fmt.Sprintf(ended, 126), "",
			"error: run multusctl in pod/kube-multus-ds-abc on node worker-3: kubectl: command terminated with exit code 126\n",
			Found,
		},
		{
			"no daemon there", `*"get pods"*) ;;`, "",
			"error: no daemon runs on node worker-3, or there is no such node: run `multusctl doctor` there, as root; " +
				"docs/multusctl.md describes nodes without a daemon\n", Found,
		},
		{
			"no permission", `*"get pods"*) echo 'Error from server (Forbidden): pods is forbidden' >&2; exit 1;;`, "",
			"error: find the daemon on node worker-3: kubectl: Error from server (Forbidden): pods is forbidden\n", Found,
		},
		{
			"no cluster", `*"get pods"*) printf 'E1128 09:24:45.7 1 memcache.go:265] "no"\nThe connection was refused\n' >&2; exit 1;;`,
			"", "error: find the daemon on node worker-3: kubectl: The connection was refused\n", Found,
		},
		{
			"only a log", `*"get pods"*) printf 'E1128 09:24:45.7 1 memcache.go:265] "no"\n' >&2; exit 1;;`, "",
			"error: find the daemon on node worker-3: kubectl: E1128 09:24:45.7 1 memcache.go:265] \"no\"\n", Found,
		},
		{
			"doctor never ends", found + `*exec*) cat /dev/zero;;`, "",
			"error: run multusctl in pod/kube-multus-ds-abc on node worker-3: its output has more than 16777216 bytes\n",
			Found,
		},
		{
			"the pod ends", found + `*exec*) echo 'error: unable to upgrade connection' >&2; exit 1;;`, "",
			"error: run multusctl in pod/kube-multus-ds-abc on node worker-3: kubectl: error: unable to upgrade connection\n",
			Found,
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			kubectl(tc.kubectl)
			code, out, errs := call(t, nil, "doctor", "--node", "worker-3", "--kubeconfig", "/k", "-o", "json")
			if code != tc.code || out != tc.out || errs != tc.errs {
				t.Errorf("%d %q %q", code, out, errs)
			}
		})
	}
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	want := "--namespace kube-system --kubeconfig /k get pods --request-timeout 20s -l name=multus --field-selector " +
		"spec.nodeName=worker-3,status.phase=Running -o name\n" +
		"--namespace kube-system --kubeconfig /k exec pod/kube-multus-ds-abc -c kube-multus -- " +
		"/usr/src/multus-cni/bin/multusctl -o json doctor\n"
	if err != nil || !strings.HasPrefix(string(b), want) {
		t.Errorf("%v\n%s", err, b)
	}
	kubectl(found + `*exec*) echo "$@"; case "$*" in *--stdin*) cat;; esac;;`)
	pod, network := filepath.Join(dir, "pod.yaml"), filepath.Join(dir, "net.json")
	write(t, pod, "kind: Pod")
	write(t, network, `{"kind": "x"}`)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"doctor", "--conf-dir", "/own"}, "doctor --conf-dir=/own\n"},
		{
			[]string{"devices", "--node-address", "192.0.2.1,192.0.2.2"},
			"devices --node-address=192.0.2.1 --node-address=192.0.2.2\n",
		},
		{
			[]string{"explain", "pod", "web-0", "--device", "a/b=c", "--device", "a/b=d"},
			"explain --device=a/b=c --device=a/b=d pod default/web-0\n",
		},
		{[]string{"explain", "pod", "a/b", "--running"}, "explain --running=true pod a/b\n"},
		{[]string{"explain", "-f", pod, "-f", network}, "explain --filename=-\n---\nkind: Pod\n---\n{\"kind\": \"x\"}\n"},
	} {
		code, out, errs := call(t, nil, append(tc.args, "--node", "worker-3")...)
		if _, got, _ := strings.Cut(out, "-o table "); code != OK || got != tc.want {
			t.Errorf("%q: %d %q %q, want %q", tc.args, code, got, errs, tc.want)
		}
	}
	t.Setenv("PATH", "/nonexistent")
	if code, _, errs := call(t, nil, "doctor", "--node", "worker-3"); code != Found ||
		!strings.Contains(errs, "kubectl is not in PATH") {
		t.Errorf("%d %q", code, errs)
	}
}
