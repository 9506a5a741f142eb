package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// inImage is this program in the daemon's image.
	inImage = "/usr/src/multus-cni/bin/multusctl"
	// remoteLimit bounds what is asked of another node.
	remoteLimit = 2 * time.Minute
)

// here tells whether a node's name is that of the node that this runs on, as far as it can be known; "" is.
func (a *app) here(node string) bool {
	host, err := os.Hostname()
	return node == "" || node == a.Getenv("MULTUS_NODE_NAME") || err == nil && node == host
}

// onNode runs a verb in the daemon's pod on another node, by kubectl, which knows how to get there: with the user's own
// credentials and rights. What it prints is passed on.
func (a *app) onNode(ctx context.Context, node string, args ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, remoteLimit, fmt.Errorf("it took longer than %s", remoteLimit))
	defer cancel()
	pod, err := a.kubectl(ctx, "get", "pods", "--request-timeout", "20s", "-l", "name=multus", "--field-selector", "spec.nodeName="+node+",status.phase=Running", "-o", "name").Output()
	if err != nil {
		return kubectlError(ctx, "find the daemon on node "+node, err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(pod)), "\n")
	if name == "" {
		return fmt.Errorf("no daemon runs on node %s, or there is no such node: run `multusctl %s` there, as root", node, strings.Join(args, " "))
	}
	c := a.kubectl(ctx, append([]string{"exec", name, "-c", "kube-multus", "--", inImage, "-o", a.output}, args...)...)
	var stderr bytes.Buffer
	c.Stdout, c.Stderr = a.Stdout, &stderr
	err = c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		exit.Stderr = stderr.Bytes()
		// kubectl passes the exit code of the verb on, and says so.
		if exit.ExitCode() == Found && strings.Contains(stderr.String(), "exit code 1") {
			return errFound
		}
	}
	return kubectlError(ctx, fmt.Sprintf("run multusctl in %s on node %s", name, node), err)
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
