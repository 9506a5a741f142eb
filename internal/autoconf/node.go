package autoconf

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"multus/internal/config"
)

const (
	// nodeLimit bounds one request for the node.
	nodeLimit = 5 * time.Second
	// firstNodePause and lastNodePause are between requests that failed; nodeInterval is between those that did not: the
	// runtime may be replaced while the daemon runs.
	firstNodePause = time.Second
	lastNodePause  = time.Minute
	nodeInterval   = time.Hour
)

// ErrNodeUnknown is returned by Slot.Node when asking again is of little use: the role does not allow to read nodes,
// there is no node of that name, or the name is not known.
var ErrNodeUnknown = errors.New("the Node object of this node cannot be read")

// Node is what the generated configuration depends on of the Node object.
type Node struct {
	// Runtime is status.nodeInfo.containerRuntimeVersion.
	Runtime string
	// Addresses are the IP addresses of the status.
	Addresses []string
}

// newestVersion is the version of the generated configuration where the runtime knows it.
const newestVersion = "1.1.0"

// runtimes are the first releases of container runtimes that are built with CNI 1.1, by the name in
// containerRuntimeVersion: major, minor.
var runtimes = map[string][2]int{"containerd": {2, 0}, "cri-o": {1, 31}}

// runtimeVersion splits a containerRuntimeVersion. What follows the numbers differs from one distribution to the next
// (2.1.4-k3s1, 2.0.5+unknown, 1.31.4-3.rhaos4.18.git) and says nothing about the release, except for pre-releases.
var runtimeVersion = regexp.MustCompile(
	`^([a-z-]+)://v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?((?:[-+~.][0-9A-Za-z.+~_-]*)?)$`)

var preRelease = regexp.MustCompile(`^[-~.]?(alpha|beta|rc|dev)`)

// VersionFor returns the version of the generated configuration for a containerRuntimeVersion, "" for that of the
// cluster network: where the runtime does not know CNI 1.1, is not known, or is a pre-release of the first release that
// does.
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

// facts are what the generated configuration takes from the node.
type facts struct {
	// version is that of the configuration, "" for the cluster network's.
	version   string
	addresses []string
}

// facts returns what a node says. Addresses that are none are left out: the plugin would refuse the whole
// configuration.
func (n Node) facts() facts {
	f := facts{version: VersionFor(n.Runtime)}
	for _, a := range n.Addresses {
		if _, err := netip.ParseAddr(a); err == nil {
			f.addresses = append(f.addresses, a)
		}
	}
	return f
}

// before returns what the configuration that is in place took from the node. It is used until the API server has
// answered, so that a daemon that starts while the API server is away does not change the configuration back and forth.
func before(conf []byte) facts {
	var c struct {
		CNIVersion    string   `json:"cniVersion"`
		NodeAddresses []string `json:"nodeAddresses"`
	}
	if json.Unmarshal(Passed(conf), &c) != nil {
		return facts{}
	}
	f := facts{addresses: c.NodeAddresses}
	if c.CNIVersion == newestVersion {
		f.version = newestVersion
	}
	return f
}

// asksNode reports whether the configuration depends on the Node object.
func (s *Slot) asksNode() bool {
	return s.Node != nil && s.conf.MultusConfigFile == config.Auto &&
		(s.conf.AutoCNIVersion() || len(s.conf.NodeAddresses) == 0)
}

// What askNode has logged: an outage is said once, however its errors differ.
const (
	saidNothing = iota
	saidAway
	saidUnknown
)

// askNode reads the node until ctx ends, and delivers what it says.
func (s *Slot) askNode(ctx context.Context) {
	said := saidNothing
	for pause := firstNodePause; ; {
		n, err := s.readNode(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := nodeInterval
		switch {
		case err == nil:
			said, pause = saidNothing, firstNodePause
		case errors.Is(err, ErrNodeUnknown):
			if said != saidUnknown {
				s.log.Warn("the CNI configuration has the cluster network's version (cniVersion auto), and no pod is kept from "+
					"taking the device "+
					"with the node's address (nodeAddresses), unless they are given", "err", err)
			}
			said = saidUnknown
		default:
			if said != saidAway {
				s.log.Warn("the Node object is not read yet: version and nodeAddresses of the CNI configuration stay as they are",
					"err", err)
			}
			said, wait, pause = saidAway, pause, min(2*pause, lastNodePause)
		}
		if said != saidAway {
			select {
			case s.learned <- n.facts():
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.after(wait):
		}
	}
}

func (s *Slot) readNode(ctx context.Context) (Node, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeLimit)
	defer cancel()
	return s.Node(ctx)
}
