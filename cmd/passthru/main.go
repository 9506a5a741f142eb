// passthru is a CNI plugin that does nothing and returns prevResult. It is the first plugin of an auxiliary chain
// (behaviour G35; G36: the one of today's Multus drops prevResult).
package main

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	nothing := func(*skel.CmdArgs) error { return nil }
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: nothing, Check: nothing, GC: nothing, Status: nothing},
		version.VersionsStartingFrom("0.3.0"), "Passthrough CNI Plugin v1.0")
}

func add(args *skel.CmdArgs) error {
	conf := &types.NetConf{}
	if err := json.Unmarshal(args.StdinData, conf); err != nil {
		return fmt.Errorf("passthru cni: error parsing CNI configuration: %w", err)
	}
	if conf.RawPrevResult == nil {
		return types.PrintResult(&current.Result{}, conf.CNIVersion)
	}
	if err := version.ParsePrevResult(conf); err != nil {
		return fmt.Errorf("passthru cni: error parsing prevResult: %w", err)
	}
	return types.PrintResult(conf.PrevResult, conf.CNIVersion)
}
