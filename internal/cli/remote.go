package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	// inImage is the path of this program in the daemon's image.
	inImage = "/usr/src/multus-cni/bin/multusctl"
	// remoteTimeout limits the time of a command on another node, and maxRemote the size of its output.
	remoteTimeout = 2 * time.Minute
	maxRemote     = 16 << 20
)

// nodeFlag adds the flag --node.
func (a *app) nodeFlag(c *cobra.Command, node *string) {
	c.Flags().StringVar(node, "node", a.Getenv("MULTUS_NODE_NAME"),
		"`name` of the node (default: this one); for another one, the command runs in the daemon's pod there, through "+
			"kubectl")
}

// forwardedArguments returns the command and those of its flags that have the same meaning on another node. Files are
// read on this machine.
func forwardedArguments(c *cobra.Command) []string {
	out := []string{c.Name()}
	c.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains([]string{"node", "output", "kubeconfig", "filename"}, f.Name) {
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, v := range values {
			out = append(out, "--"+f.Name+"="+v)
		}
	})
	return out
}

// isThisNode reports whether a node's name is that of this node, as far as that can be determined. "" is this node.
func (a *app) isThisNode(node string) bool {
	if !a.isLinux() {
		return node == ""
	}
	host, err := os.Hostname()
	return node == "" || node == a.Getenv("MULTUS_NODE_NAME") || err == nil && node == host
}

// inPod reports whether this process runs in a pod, which has only the mounted parts of the node.
func (a *app) inPod() bool { return a.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// runOnNode runs a command in the daemon's pod on another node, which has the node's devices and files, and the
// daemon's permissions. It uses kubectl, which supports every kind of credentials. A client for exec (websockets, SPDY)
// would make this program larger without any benefit. The output and the exit code of the command are passed on.
func (a *app) runOnNode(ctx context.Context, node string, stdin []byte, args ...string) error {
	if a.source.networksDir != "" {
		return usageError{errors.New("--networks-dir is a directory of this machine, and --node runs on another one: use " +
			"one or the other")}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, remoteTimeout, fmt.Errorf("it took longer than %s", remoteTimeout))
	defer cancel()
	pod, err := a.kubectl(ctx, "get", "pods", "--request-timeout", "20s", "-l", "name=multus", "--field-selector",
		"spec.nodeName="+node+",status.phase=Running", "-o", "name").Output()
	if err != nil {
		return kubectlError(ctx, "find the daemon on node "+node, err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(pod)), "\n")
	if name == "" {
		return fmt.Errorf("no daemon runs on node %s, or there is no such node: run `multusctl %s` there, as root; "+
			"docs/multusctl.md describes nodes without a daemon", node, args[0])
	}
	all := []string{"exec", name, "-c", "kube-multus"}
	if stdin != nil {
		all = append(all, "--stdin")
	}
	c := a.kubectl(ctx, append(append(all, "--", inImage, "-o", a.output), args...)...)
	var stdout, stderr limitedBuffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if stdin != nil {
		c.Stdin = bytes.NewReader(stdin)
	}
	err = c.Run()
	if stdout.more || stderr.more {
		return fmt.Errorf("run multusctl in %s on node %s: its output has more than %d bytes", name, node, maxRemote)
	}
	// The output of another machine is untrusted input. It must not control this terminal.
	if _, werr := (&printable{a.Stdout}).Write(stdout.b.Bytes()); werr != nil {
		return fmt.Errorf("write output: %w", werr)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		exit.Stderr = stderr.b.Bytes()
		if said, code, ok := splitRemoteError(stderr.b.String()); ok {
			fmt.Fprint(&printable{a.Stderr}, said)
			return exitCode(code)
		}
	}
	return kubectlError(ctx, fmt.Sprintf("run multusctl in %s on node %s", name, node), err)
}

// limitedBuffer stores the output of another node, up to maxRemote bytes. If there is more, the write fails, which ends
// kubectl.
type limitedBuffer struct {
	b    bytes.Buffer
	more bool
}

func (a *limitedBuffer) Write(p []byte) (int, error) {
	if a.more = a.more || a.b.Len()+len(p) > maxRemote; a.more {
		return 0, io.ErrShortWrite
	}
	return a.b.Write(p)
}

// terminated matches kubectl's message about a program that ended with a code other than 0.
var terminated = regexp.MustCompile(`(?m)^command terminated with exit code (\d+)\n?`)

// splitRemoteError separates the standard error of a command on another node from kubectl's message about its end. ok
// is false for codes that multusctl does not use: the program does not exist, or was killed.
func splitRemoteError(stderr string) (said string, code int, ok bool) {
	m := terminated.FindStringSubmatch(stderr)
	if m == nil {
		return "", 0, false
	}
	code, err := strconv.Atoi(m[1])
	return terminated.ReplaceAllString(stderr, ""), code, err == nil && (code == Found || code == Usage)
}

func (a *app) kubectl(ctx context.Context, args ...string) *exec.Cmd {
	all := []string{"--namespace", "kube-system"}
	if a.source.kubeconfig != "" {
		all = append(all, "--kubeconfig", a.source.kubeconfig)
	}
	return exec.CommandContext(ctx, "kubectl", append(all, args...)...)
}

// kubectlError returns an error with kubectl's output in one line.
func kubectlError(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s: kubectl is not in PATH; run multusctl on the node, as root", doing)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%s: kubectl: %s", doing, withoutLog(string(exit.Stderr)))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// logLine matches a log line of kubectl, which precedes its message if it cannot connect: once for each attempt.
var logLine = regexp.MustCompile(`(?m)^[IWEF][0-9]{4} .*$`)

// withoutLog returns the output of kubectl in one line, without its log if there is anything else.
func withoutLog(output string) string {
	message := strings.Fields(logLine.ReplaceAllString(output, ""))
	if len(message) == 0 {
		message = strings.Fields(output)
	}
	return strings.Join(message, " ")
}
