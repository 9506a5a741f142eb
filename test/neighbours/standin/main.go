// Command standin replaces CNI plugins that cannot be built from the Go module proxy. It is installed under the name of
// the plugin and behaves as public reports and the source of that plugin say: supported versions, the form of the
// result, CHECK, errors of DEL, and missing support for GC. It does not do the work of that plugin: every interface is
// one end of a veth pair.
//
// Only test/neighbours runs it. It does not show any behaviour of a real plugin that is not described in its role.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// role is how a plugin differs from others.
type role struct {
	// versions are the versions that VERSION lists and ADD accepts.
	versions version.PluginInfo
	// noGC reports whether the plugin was built with a version of skel without GC and STATUS. For these verbs it returns
	// an error about the missing container ID.
	noGC bool

	add, check, del func(*skel.CmdArgs, *netConf) error
	// gc is nil if the plugin has nothing to collect.
	gc func(*skel.CmdArgs, *netConf) error
}

// netConf is the configuration of any of these plugins.
type netConf struct {
	types.NetConf
	// Links are the slaves of bond.
	Links []struct {
		Name string `json:"name"`
	} `json:"links"`
	// SubnetFile, DataDir and Delegate belong to flannel.
	SubnetFile string         `json:"subnetFile"`
	DataDir    string         `json:"dataDir"`
	Delegate   map[string]any `json:"delegate"`
	// FlushGateway and AddRoutes belong to route-override.
	FlushGateway bool           `json:"flushgateway"`
	AddRoutes    []*types.Route `json:"addroutes"`

	prev *current.Result
}

var (
	all    = version.PluginSupports("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
	upTo10 = version.PluginSupports("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0")
)

var roles = map[string]role{
	// The host's end comes first in the result.
	"ovs": {versions: upTo10, noGC: true, add: addPair(hostFirst), check: nothing, del: delPair},
	// DEL looks for the slaves and fails without them.
	"bond": {versions: upTo10, noGC: true, add: addBond, check: nothing, del: delBond},
	// A chained plugin that changes routes. Its CHECK rejects routes without a gateway.
	"route-override": {versions: upTo10, noGC: true, add: overrideRoutes, check: checkRoutes, del: nothing},
	// Another plugin does the work. Its configuration is saved in a file.
	"flannel": {versions: upTo10, noGC: true, add: addFlannel, check: nothing, del: delFlannel},
	// The result has only the host's end, and addresses without an interface.
	"calico":     {versions: all, add: addPair(hostOnly), check: nothing, del: delPair},
	"cilium-cni": {versions: all, add: addPair(hostFirst), check: nothing, del: delPair},
	// The MAC address of an interface that does not exist carries a VLAN ID.
	"aws-cni": {versions: upTo10, noGC: true, add: addPair(withDummy), check: nothing, del: delPair},
	// A second interface in the pod, for the user-defined network.
	"ovn-k8s-cni-overlay": {versions: upTo10, noGC: true, add: addPair(withUDN), check: nothing, del: delPair},
	// A chained plugin that passes the result on unchanged.
	"istio-cni": {versions: all, add: passOn, check: nothing, del: nothing},
	// A chained plugin that supports only old versions and was built with a version of skel that has GC. It rejects the
	// version.
	"old-only": {versions: upTo10, add: passOn, check: nothing, del: nothing},
	// A plugin that supports the newest version and was built with a version of skel without GC.
	"no-gc": {versions: all, noGC: true, add: addPair(podOnly), check: nothing, del: delPair},
	// A plugin that passes GC on to its IPAM plugin, as the CNI specification requires. No reference plugin of 1.10 does.
	"ipam-gc": {versions: all, add: addPair(podOnly), check: nothing, del: delPair, gc: passGC},
}

func main() {
	name := filepath.Base(os.Args[0])
	r, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "standin: no role for %q\n", name)
		os.Exit(1)
	}
	if verb := os.Getenv("CNI_COMMAND"); r.noGC && (verb == "GC" || verb == "STATUS") {
		// skel validates the container ID before it looks up the verb.
		_ = types.NewError(types.ErrUnknownContainer, "missing containerID", "").Print()
		os.Exit(1)
	}
	if r.gc == nil {
		r.gc = nothing
	}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: parsed(r.add), Check: parsed(r.check), Del: parsed(r.del), GC: parsed(r.gc),
		Status: func(*skel.CmdArgs) error { return nil },
	}, r.versions, "stand-in for "+name)
}

func parsed(do func(*skel.CmdArgs, *netConf) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		var c netConf
		if err := json.Unmarshal(args.StdinData, &c); err != nil {
			return fmt.Errorf("parse configuration: %w", err)
		}
		if err := version.ParsePrevResult(&c.NetConf); err != nil {
			return fmt.Errorf("parse prevResult: %w", err)
		}
		if c.PrevResult != nil {
			prev, err := current.NewResultFromResult(c.PrevResult)
			if err != nil {
				return fmt.Errorf("convert prevResult: %w", err)
			}
			c.prev = prev
		}
		return do(args, &c)
	}
}

func nothing(*skel.CmdArgs, *netConf) error { return nil }

// passOn prints the result of the previous plugin.
func passOn(_ *skel.CmdArgs, c *netConf) error {
	if c.prev == nil {
		return fmt.Errorf("must be called as chained plugin")
	}
	return types.PrintResult(c.prev, c.CNIVersion)
}

// overrideRoutes removes the gateways from the result and adds routes.
func overrideRoutes(args *skel.CmdArgs, c *netConf) error {
	if c.prev == nil {
		return fmt.Errorf("route-override must be called as chained plugin")
	}
	if c.FlushGateway {
		if err := flushDefault(args); err != nil {
			return err
		}
		c.prev.Routes = nil
		for _, ip := range c.prev.IPs {
			ip.Gateway = nil
		}
	}
	if err := addRoutes(args, c.AddRoutes); err != nil {
		return err
	}
	c.prev.Routes = append(c.prev.Routes, c.AddRoutes...)
	return types.PrintResult(c.prev, c.CNIVersion)
}

func checkRoutes(_ *skel.CmdArgs, c *netConf) error {
	if c.prev == nil {
		return fmt.Errorf("required prevResult missing")
	}
	for _, r := range c.prev.Routes {
		if r.GW == nil {
			return fmt.Errorf("cannot find gateway %v in result", r.GW)
		}
	}
	return nil
}
