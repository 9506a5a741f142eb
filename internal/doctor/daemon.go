package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"multus/wire/client"
	wirev1 "multus/wire/v1"
)

// requestLimit limits one request to the daemon.
const requestLimit = 3 * time.Second

// shim is the plugin of a node with a daemon.
const shim = "multus-shim"

var daemonCheck = Check{
	Name: "daemon", About: "the daemon answers, is ready, and has the plugin's version",
	Run: func(ctx context.Context, n *Node) ([]Finding, error) {
		socket, err := n.socket()
		if socket == "" {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, requestLimit)
		defer cancel()
		c := &client.Client{Socket: n.path(socket)}
		logs := "kubectl -n kube-system logs -l app=multus --prefix --tail=-1, of the pod on " + nameOr(n)
		err = c.Call(ctx, "GET", wirev1.PathReady, nil, nil)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("only root may connect to the daemon: %w", err)
		case errors.Is(err, fs.ErrNotExist):
			return []Finding{{
				Severity: Error, Message: "the daemon has no socket: pods that ask for networks wait and fail",
				Evidence: socket + " does not exist",
				Fix: "kubectl -n kube-system get pods -l app=multus -o wide; " + logs +
					"; if it runs, make socketDir and daemonSocketDir the same",
			}}, nil
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, client.ErrUnreachable):
			return []Finding{{
				Severity: Error, Message: "the daemon does not answer: pods that ask for networks wait and fail",
				Evidence: err.Error(), Fix: logs,
			}}, nil
		}
		var out []Finding
		if err != nil {
			out = append(out, Finding{Severity: Error, Message: "the daemon is not ready", Evidence: err.Error(), Fix: logs})
		}
		out = append(append(out, skew(ctx, n, socket)...), hotPlugController(n)...)
		return append(out, missingNetworks(ctx, c, nameOr(n))...), nil
	},
}

// socket returns the path of the daemon's socket, or "" for a thin node, which has no daemon. If the runtime loads no
// configuration of Multus, which is when users look for the daemon, its configuration file or its plugin shows that
// there should be one.
func (n *Node) socket() (string, error) {
	s := n.setup()
	switch {
	case s.conf.Type == shim:
		return s.conf.SocketPath(), nil
	case s.file != "":
		return "", nil
	case s.daemon != nil:
		return s.daemon.HostPath(s.daemon.Socket()), nil
	}
	if n.exists(filepath.Join(n.binDir(), shim)) {
		return s.conf.SocketPath(), nil
	}
	return "", errors.New("no configuration of Multus is on this node")
}

// skew compares the versions of the daemon and the plugin.
func skew(ctx context.Context, n *Node, socket string) []Finding {
	if n.Version == nil || n.DaemonVersion == nil {
		return nil
	}
	plugin := filepath.Join(n.binDir(), shim)
	have, err := n.Version(n.path(plugin))
	if err != nil {
		return nil // the plugins check reports what is wrong
	}
	want, err := n.DaemonVersion(ctx, n.path(socket))
	if err != nil || have == want {
		return nil
	}
	return []Finding{{
		Severity: Warning, Message: "plugin and daemon have different versions",
		Evidence: fmt.Sprintf("%s is %s, the daemon is %s", plugin, have, want),
		Fix:      reinstall(n),
	}}
}
