package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"multus/internal/doctor"
	"multus/internal/engine/plan"
	"multus/internal/link"
	"multus/internal/source/kube"
	"multus/internal/source/podresources"
)

func (a *app) doctorCommand() *cobra.Command {
	var node, root, confDir string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is wrong with this node",
		Long: "Find out what is wrong with this node. Each finding has its evidence and a command that helps. doctor only\n" +
			"reads; it changes nothing. It works without the daemon and without a cluster, and lists what it cannot see\n" +
			"as unchecked. As root on the node it sees everything; in the daemon's pod it sees what is mounted there.\n" +
			"With --node it runs in the daemon's pod on another node, through kubectl.",
		Example: "  multusctl doctor\n  multusctl doctor --kubeconfig /etc/kubernetes/kubelet.conf -o json\n" +
			"  kubectl multus doctor --node worker-3\n  multusctl doctor --root /host",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !a.isThisNode(node) && root == "/" {
				return a.runOnNode(cmd.Context(), node, nil, forwardedArguments(cmd)...)
			}
			n, err := a.node(root, node)
			if err != nil {
				return err
			}
			n.ConfDir = confDir
			return a.printReport(doctor.Run(cmd.Context(), n))
		},
	}
	a.source.add(c.Flags())
	a.nodeFlag(c, &node)
	c.Flags().StringVar(&confDir, "conf-dir", "",
		"`directory` from which the runtime loads its CNI configuration (default: the daemon's configuration, else the "+
			"distribution's)")
	c.Flags().StringVar(&root, "root", "/", "`directory` where the node's file system is mounted")
	return c
}

// node returns this node for the doctor.
func (a *app) node(root, name string) (*doctor.Node, error) {
	n := &doctor.Node{
		Name: name, Root: root, Arch: runtime.GOARCH, InPod: root == "/" && a.inPod(),
		Interfaces: interfaces, Version: versionOf, DaemonVersion: daemonVersion, Handshake: handshake, Now: time.Now(),
		Claimed: claimedDevices,
	}
	if n.Name == "" {
		n.Name, _ = os.Hostname() // only for the suggested commands
	}
	if !n.InPod {
		n.NetnsExists = func(path string) bool { return netnsState(filepath.Join(root, path)) != stateGone }
	}
	s, err := a.open()
	switch {
	case errors.Is(err, errNoSource):
		return n, nil
	case err != nil:
		return nil, err
	}
	n.Networks = s.networks
	if a.source.networksDir != "" {
		return n, nil
	}
	config, err := a.cluster()
	if err != nil {
		return nil, err
	}
	client, err := kube.New(config)
	if err != nil {
		return nil, err
	}
	n.Cluster = apiServer{client, config}
	return n, nil
}

// claimedDevices returns the devices of ResourceClaims that a kubelet lists.
func claimedDevices(ctx context.Context, kubeletRoot string) (out []plan.ClaimedDevice, err error) {
	listed, err := podresources.New(podresources.Options{Root: kubeletRoot}).Claims(ctx)
	for i := range listed {
		out = append(out, listed[i].ClaimedDevice)
	}
	return out, err
}

// apiServer is a client with its credentials.
type apiServer struct {
	*kube.Client
	config *kube.Config
}

// Expiry returns when the credentials expire.
func (s apiServer) Expiry() (time.Time, string, error) { return kube.Expiry(s.config) }

// Account returns the user of the credentials.
func (s apiServer) Account() string { return kube.Account(s.config) }

// interfaces returns the interfaces of the network namespace of this process. On the node, and in a pod that uses the
// host's network, that is the node's.
func interfaces() (_ []link.Interface, err error) {
	ns, err := link.Open("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	return ns.Interfaces()
}

// handshakeLimit limits the time to connect to the admission webhook.
const handshakeLimit = 3 * time.Second

// handshake returns the certificates of a TLS server. They are not checked here, so that a wrong one can be reported.
func handshake(ctx context.Context, addr, name string) (_ []*x509.Certificate, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil, fmt.Errorf("%s is not a TLS server", addr)
	}
	return t.ConnectionState().PeerCertificates, nil
}

// versionOf returns the version in the build information of one of our programs.
func versionOf(file string) (string, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return "", err
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return info.Main.Version + " " + s.Value, nil
		}
	}
	return info.Main.Version, nil
}

func (a *app) printReport(r *doctor.Report) error {
	err := a.print(r, func(w io.Writer) {
		manifests := "deploy/overlays/" + r.Overlay
		if r.Overlay == "base" {
			manifests = "deploy/base"
		}
		fmt.Fprintf(w, "node %s: %s, %s\n\n", dash(r.Node), r.Distribution, manifests)
		for _, c := range r.Checks {
			colour, mark := green, "ok       "
			switch c.State {
			case doctor.StateFound:
				colour, mark = red, "FOUND    "
			case doctor.StateUnchecked:
				colour, mark = yellow, "unchecked"
			}
			fmt.Fprintf(w, "%s  %-13s %s\n", a.paint(colour, mark), c.Name, c.About)
			if c.Why != "" {
				fmt.Fprintf(w, "             incomplete: %s\n", c.Why)
			}
		}
		for _, f := range r.Findings {
			colour := yellow
			if f.Severity == doctor.Error {
				colour = red
			}
			fmt.Fprintf(w, "\n%s %s: %s\n  evidence: %s\n  fix:      %s\n", a.paint(colour, string(f.Severity)), f.Check,
				f.Message, f.Evidence, f.Fix)
		}
	})
	if err == nil && len(r.Findings) > 0 {
		err = errFound
	}
	return err
}
