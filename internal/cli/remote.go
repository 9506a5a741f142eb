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
	// inImage is this program in the daemon's image.
	inImage = "/usr/src/multus-cni/bin/multusctl"
	// remoteLimit bounds the time in which another node is asked, maxRemote the bytes that it may answer.
	remoteLimit = 2 * time.Minute
	maxRemote   = 16 << 20
)

// nodeFlag adds the flag of verbs that tell of a node.
func (a *app) nodeFlag(c *cobra.Command, node *string) {
	c.Flags().StringVar(node, "node", a.Getenv("MULTUS_NODE_NAME"),
		"`name` of the node (default: this one); another one is looked at from the daemon's pod there, by kubectl")
}

// passedOn is the command with those of its flags that mean the same on another node. Files are read here.
func passedOn(c *cobra.Command) []string {
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

// here tells whether a node's name is that of the node that this runs on, as far as it can be known; "" is.
func (a *app) here(node string) bool {
	host, err := os.Hostname()
	return node == "" || node == a.Getenv("MULTUS_NODE_NAME") || err == nil && node == host
}

// inPod tells whether this runs in a pod, which holds of the node only what is mounted into it.
func (a *app) inPod() bool { return a.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// onNode runs a verb in the daemon's pod on another node: there are the node's devices and files, and the rights of the
// daemon. It goes by kubectl, which people who call this have, and which knows every way of proving who they are; what
// exec needs beside the API (websockets, SPDY) would make this program larger for the same. What the verb prints is
// passed on, and so is its exit code.
func (a *app) onNode(ctx context.Context, node string, stdin []byte, args ...string) error {
	if a.source.networksDir != "" {
		return usageError{errors.New("--networks-dir is a directory of this machine, and --node asks the cluster: give one " +
			"or the other")}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, remoteLimit, fmt.Errorf("it took longer than %s", remoteLimit))
	defer cancel()
	pod, err := a.kubectl(ctx, "get", "pods", "--request-timeout", "20s", "-l", "name=multus", "--field-selector",
		"spec.nodeName="+node+",status.phase=Running", "-o", "name").Output()
	if err != nil {
		return kubectlError(ctx, "find the daemon on node "+node, err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(pod)), "\n")
	if name == "" {
		return fmt.Errorf("no daemon runs on node %s, or there is no such node: run `multusctl %s` there, as root; "+
			"docs/multusctl.md says how without a daemon", node, args[0])
	}
	all := []string{"exec", name, "-c", "kube-multus"}
	if stdin != nil {
		all = append(all, "--stdin")
	}
	c := a.kubectl(ctx, append(append(all, "--", inImage, "-o", a.output), args...)...)
	var stdout, stderr answer
	c.Stdout, c.Stderr = &stdout, &stderr
	if stdin != nil {
		c.Stdin = bytes.NewReader(stdin)
	}
	err = c.Run()
	if stdout.more || stderr.more {
		return fmt.Errorf("run multusctl in %s on node %s: it answers with more than %d bytes", name, node, maxRemote)
	}
	// What another machine sends is input, too: it must not control this terminal.
	if _, werr := (&printable{a.Stdout}).Write(stdout.b.Bytes()); werr != nil {
		return fmt.Errorf("write output: %w", werr)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		exit.Stderr = stderr.b.Bytes()
		if said, code, ok := ended(stderr.b.String()); ok {
			fmt.Fprint(&printable{a.Stderr}, said)
			return exitCode(code)
		}
	}
	return kubectlError(ctx, fmt.Sprintf("run multusctl in %s on node %s", name, node), err)
}

// answer keeps what another node prints, up to maxRemote bytes. More ends kubectl.
type answer struct {
	b    bytes.Buffer
	more bool
}

func (a *answer) Write(p []byte) (int, error) {
	if a.more = a.more || a.b.Len()+len(p) > maxRemote; a.more {
		return 0, io.ErrShortWrite
	}
	return a.b.Write(p)
}

// terminated is what kubectl says of a program that ended with another code than 0.
var terminated = regexp.MustCompile(`(?m)^command terminated with exit code (\d+)\n?`)

// ended takes apart what a verb on another node has written to standard error, and what kubectl says of its end. Other
// codes than those of a verb are not its own: then the program is not there, or was killed.
func ended(stderr string) (said string, code int, ok bool) {
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

// kubectlError says in one line what kubectl said.
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
		return fmt.Errorf("%s: kubectl: %s", doing, strings.Join(strings.Fields(string(exit.Stderr)), " "))
	}
	return fmt.Errorf("%s: %w", doing, err)
}
