package cniconfig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"k8s.io/utils/clock"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

const (
	// nodeLimit limits one request for the node.
	nodeLimit = 5 * time.Second
	// firstNodePause and lastNodePause limit the pauses after failed requests. nodeInterval is the pause after a
	// successful one: the runtime may be replaced while the daemon runs.
	firstNodePause = time.Second
	lastNodePause  = time.Minute
	nodeInterval   = time.Hour
)

// ErrNodeUnknown is returned by Controller.Node when a retry is useless: the role does not permit to read nodes, the
// node does not exist, or its name is unknown.
var ErrNodeUnknown = errors.New("the Node object of this node cannot be read")

// Node is the part of the Node object on which the generated configuration depends.
type Node struct {
	// Runtime is status.nodeInfo.containerRuntimeVersion.
	Runtime string
	// Addresses are the IP addresses of the status.
	Addresses []string
}

// newestVersion is the version of the generated configuration if the runtime supports it.
const newestVersion = "1.1.0"

// runtimes are the first releases (major, minor) of container runtimes that are built with CNI 1.1, by the name in
// containerRuntimeVersion.
var runtimes = map[string][2]int{"containerd": {2, 0}, "cri-o": {1, 31}}

// runtimeVersion matches a containerRuntimeVersion. The suffix after the numbers depends on the distribution
// (2.1.4-k3s1, 2.0.5+unknown, 1.31.4-3.rhaos4.18.git). It is irrelevant for the release, except that of pre-releases.
var runtimeVersion = regexp.MustCompile(
	`^([a-z-]+)://v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?((?:[-+~.][0-9A-Za-z.+~_-]*)?)$`)

var preRelease = regexp.MustCompile(`^[-~.]?(alpha|beta|rc|dev)`)

// VersionFor returns the version of the generated configuration for a containerRuntimeVersion. It returns "", which
// stands for the version of the cluster network, if the runtime does not support CNI 1.1, is unknown, or is a
// pre-release of the first release that supports it.
func VersionFor(containerRuntimeVersion string) string {
	m := runtimeVersion.FindStringSubmatch(containerRuntimeVersion)
	if m == nil {
		return ""
	}
	first, known := runtimes[m[1]]
	major, majorErr := strconv.Atoi(m[2])
	minor, minorErr := strconv.Atoi(m[3])
	if !known || majorErr != nil || minorErr != nil {
		return ""
	}
	has := [2]int{major, minor}
	newest := slices.Compare(has[:], first[:])
	if newest < 0 || newest == 0 && (m[4] == "" || m[4] == "0") && preRelease.MatchString(m[5]) {
		return ""
	}
	return newestVersion
}

// Facts are the values that the generated configuration takes from the Node object.
type Facts struct {
	// Version is the version of the configuration, or "" for the one of the cluster network.
	Version string
	// Addresses are the IP addresses of the node.
	Addresses []string
}

// maxAddresses limits the addresses of a node in the configuration, which the plugin reads for every pod. A node has
// one for each of its networks and IP families.
const maxAddresses = 64

// Facts returns the facts of a Node object, with at most maxAddresses addresses. Invalid addresses are left out,
// because the plugin would reject the whole configuration.
func (n Node) Facts() Facts {
	f := Facts{Version: VersionFor(n.Runtime)}
	for _, a := range n.Addresses {
		if _, err := netip.ParseAddr(a); err == nil && len(f.Addresses) < maxAddresses {
			f.Addresses = append(f.Addresses, a)
		}
	}
	return f
}

// FactsOf returns the facts in an existing configuration. They are used until the API server has answered, so that a
// program that starts while the API server is unavailable does not change the configuration back and forth.
func FactsOf(conf []byte) Facts {
	var c struct {
		CNIVersion    string   `json:"cniVersion"`
		NodeAddresses []string `json:"nodeAddresses"`
	}
	if json.Unmarshal(cniconf.PluginConfig(conf), &c) != nil {
		return Facts{}
	}
	f := Facts{Addresses: c.NodeAddresses}
	if c.CNIVersion == newestVersion {
		f.Version = newestVersion
	}
	return f
}

// needsNode reports whether the configuration depends on the Node object.
func (c *Controller) needsNode() bool {
	return c.Node != nil && c.conf.MultusConfigFile == config.Auto &&
		(c.conf.AutoCNIVersion() || len(c.conf.NodeAddresses) == 0)
}

// NodeWatch reads the Node object of this node from time to time, because the container runtime may be replaced.
type NodeWatch struct {
	// Read reads the object once. If the error wraps ErrNodeUnknown, a retry is useless for now.
	Read func(context.Context) (Node, error)
	// Warn reports why the object could not be read, once for each kind of failure.
	Warn func(text string, err error)
	// Clock is the real clock, except in tests.
	Clock clock.Clock
}

// The last failure that Run has reported. An outage is reported once, even if its errors differ.
const (
	reportedNothing = iota
	reportedOutage
	reportedUnknown
)

// Run reads the object until ctx ends and delivers its facts. It delivers empty facts if the error wraps
// ErrNodeUnknown, and nothing while the API server cannot be reached.
func (w *NodeWatch) Run(ctx context.Context, out chan<- Facts) {
	reported := reportedNothing
	for pause := firstNodePause; ; {
		n, err := w.read(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := nodeInterval
		switch {
		case err == nil:
			reported, pause = reportedNothing, firstNodePause
		case errors.Is(err, ErrNodeUnknown):
			if reported != reportedUnknown {
				w.Warn("cniVersion auto uses the cluster network's version, and the device with the node's address is not "+
					"protected from pods; set cniVersion and nodeAddresses in the daemon's configuration", err)
			}
			reported = reportedUnknown
		default:
			if reported != reportedOutage {
				w.Warn("cannot read the Node object yet: cniVersion and nodeAddresses of the CNI configuration stay unchanged", err)
			}
			reported, wait, pause = reportedOutage, pause, min(2*pause, lastNodePause)
		}
		if reported != reportedOutage {
			select {
			case out <- n.Facts():
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-w.Clock.After(wait):
		}
	}
}

func (w *NodeWatch) read(ctx context.Context) (Node, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeLimit)
	defer cancel()
	return w.Read(ctx)
}

// watchNode reads the Node object until ctx ends.
func (c *Controller) watchNode(ctx context.Context) {
	w := &NodeWatch{Read: c.Node, Clock: c.clock, Warn: func(text string, err error) {
		c.log.Warn(text, "err", err) //nolint:sloglint // one of the two texts of Run
	}}
	w.Run(ctx, c.newFacts)
}

// NodeReader returns a function that reads the Node object by its name. The error wraps ErrNodeUnknown if a retry is
// useless: the name is "", the role does not permit the request, or there is no such node.
func NodeReader(get func(context.Context, string) (*kube.Node, error),
	name string,
) func(context.Context) (Node, error) {
	return func(ctx context.Context) (Node, error) {
		if name == "" {
			return Node{}, fmt.Errorf("%w: the name of this node is not known; set MULTUS_NODE_NAME in the environment",
				ErrNodeUnknown)
		}
		n, err := get(ctx, name)
		if denied := (*kube.ForbiddenError)(nil); errors.As(err, &denied) || errors.Is(err, plan.ErrNotFound) {
			err = fmt.Errorf("%w: get node %q: %w", ErrNodeUnknown, name, err)
		}
		if err != nil {
			return Node{}, err
		}
		return Node{Runtime: n.ContainerRuntimeVersion, Addresses: n.Addresses}, nil
	}
}
