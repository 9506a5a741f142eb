package entrypoint

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// TestFlags checks that the flags have today's names and defaults, so that a manifest can be carried over, and that
// help and version succeed (behaviour G1).
func TestFlags(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"cni-bin-dir": "/host/opt/cni/bin", "cni-conf-dir": "/host/etc/cni/net.d", "cni-version": "",
		"multus-conf-file": "auto",
		"multus-bin-file":  "/usr/src/multus-cni/bin/multus", "multus-cni-conf-dir": "/host/etc/cni/multus/net.d",
		"skip-multus-binary-copy":     "false",
		"multus-kubeconfig-file-host": "/etc/cni/net.d/multus.d/multus.kubeconfig", "multus-master-cni-file-name": "",
		"namespace-isolation": "false",
		"global-namespaces":   "", "multus-autoconfig-dir": "/host/etc/cni/net.d", "multus-log-to-stderr": "true",
		"multus-log-level": "", "multus-log-file": "",
		"override-network-name": "false", "cleanup-config-on-exit": "false", "skip-config-watch": "false",
		"rename-conf-file":         "false",
		"readiness-indicator-file": "", "additional-bin-dir": "", "force-cni-version": "false (hidden)",
		"skip-tls-verify": "false (hidden)",
	}
	got := map[string]string{}
	out := &output{}
	cmd := Command(func(string) string { return "" }, out)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		got[f.Name] = f.DefValue
		if f.Hidden {
			got[f.Name] = fmt.Sprintf("%s (hidden)", f.DefValue)
		}
	})
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, flag := range []string{"-h", "--help"} {
		cmd := Command(func(string) string { return "" }, out)
		cmd.SetOut(out)
		cmd.SetArgs([]string{flag})
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "--multus-conf-file") {
			t.Errorf("%s: %v\n%s", flag, err, out)
		}
	}
}

// TestRename checks that the cluster network's file is renamed once the configuration contains it, that the program
// does not wait for it afterwards, and that the token is still followed (behaviour G25).
func TestRename(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	stop := h.start(t, "--rename-conf-file")
	h.eventually(t, "the watch", func() bool { return strings.Contains(h.out.String(), "Entering watch loop...") })
	if h.exists("net.d/10-flannel.conflist") || h.read(t, "net.d/10-flannel.conflist.old") != flannel031 {
		t.Error("the file was not renamed")
	}
	good := h.read(t, "net.d/00-multus.conf")
	h.write(t, "sa/token", "token-2")
	h.eventually(t, "the new token", func() bool { return h.read(t, "net.d/multus.d/multus.token") == "token-2" })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if h.read(t, "net.d/00-multus.conf") != good || !strings.Contains(good, `"type":"flannel"`) {
		t.Errorf("the configuration: %s", h.read(t, "net.d/00-multus.conf"))
	}
}

// TestLines checks the lines of the log that users search for, and their order (behaviour G26).
func TestLines(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(t, "net.d/10-flannel.conflist", flannel031)
	stop := h.start(t)
	h.eventually(t, "the watch", func() bool { return strings.Contains(h.out.String(), "Entering watch loop...") })
	h.write(t, "net.d/10-flannel.conflist", strings.Replace(flannel031, "flannel", "flannel2", 1))
	h.eventually(t, "the change", func() bool { return strings.Contains(h.out.String(), "master config changed") })
	h.write(t, "sa/token", "token-2")
	h.eventually(t, "the token", func() bool { return strings.Contains(h.out.String(), "CA or SA token changed") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	rest := h.out.String()
	for _, line := range []string{
		"kubeconfig file is created.\n", "multus config file is created.\n", "Entering watch loop...\n",
		"master config changed - recreated multus config ", "CA or SA token changed - recreated kubeconfig\n",
	} {
		_, after, ok := strings.Cut(rest, line)
		if !ok {
			t.Fatalf("no %q after what comes before it in\n%s", line, h.out)
		}
		rest = after
	}
}

// TestLegacyFlags checks that the command lines of charts and operators that run the script of older images are
// accepted.
func TestLegacyFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--multus-conf-file=auto", "--cni-version=0.3.1"},
		{"--cni-version=0.3.1", "--multus-conf-file=/tmp/multus-conf/00-multus.conf"},
		{
			"--multus-conf-file=auto", "--restart-crio=true", "--cni-version=0.3.1", "--namespace-isolation=true",
			"--multus-log-to-stderr=true", "--override-network-name=true",
		},
	} {
		cmd := LegacyCommand(func(string) string { return "" }, io.Discard)
		if err := cmd.ParseFlags(args); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
	if err := Command(func(string) string { return "" }, io.Discard).ParseFlags([]string{"--restart-crio"}); err == nil {
		t.Error("thin_entrypoint takes the flags of the script")
	}
}
