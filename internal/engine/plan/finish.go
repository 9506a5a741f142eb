package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/cniconf"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
)

// DeviceInfoDir holds the device-info files of attachments (behaviour H30, C71).
const DeviceInfoDir = "/var/run/k8s.cni.cncf.io/devinfo/cni"

// nameInterfaces sets the interface name of every attachment: the runtime's name for the cluster network, the requested
// name, or net<index> (behaviour C80, C81; C53). A name that the kernel would refuse, or that another
// attachment has, is refused here, before anything is done (C82, K10; NPWG v1.3 §4.1.2.1.5).
func (p *planning) nameInterfaces() error {
	taken := map[string]string{}
	for i := range p.out {
		a := &p.out[i]
		switch {
		case i == 0:
			a.IfName = p.req.IfName
		case a.Request != nil && a.Request.Interface != "":
			a.IfName = a.Request.Interface
		default:
			a.IfName = fmt.Sprintf("net%d", i)
		}
		if err := checkInterfaceName(a.IfName); err != nil {
			err := p.refuse(RuleInterfaceName, a.Origin, i, fault.InterfaceNameInvalid.Wrap(err, a.Name, p.req.Pod(), a.IfName))
			if err != nil {
				return err
			}
			continue
		}
		if other, ok := taken[a.IfName]; ok {
			err := p.refuse(RuleDuplicateName, a.Origin, i, fault.InterfaceNameTaken.New(a.Name, p.req.Pod(), a.IfName, other))
			if err != nil {
				return err
			}
			continue
		}
		taken[a.IfName] = a.Name
	}
	return nil
}

// checkConfigs returns an error for a configuration that must not be executed or recorded, of the attachments from
// first on.
func (p *planning) checkConfigs(first int) error {
	for i := first; i < len(p.out); i++ {
		if a := &p.out[i]; a.Config != nil {
			if err := p.refuse(RuleNetworkName, a.Origin, i, p.checkNetworkName(i, a)); err != nil {
				return err
			}
		}
	}
	for i := first; i < len(p.out); i++ {
		a := &p.out[i]
		if a.Config == nil {
			continue
		}
		types := a.Config.AllTypes()
		for _, checked := range [...]struct {
			rule Rule
			err  error
		}{
			{RuleAmbiguous, p.checkAmbiguous(a)},
			{RuleVersion, p.checkVersion(a)},
			{RuleRecursion, p.checkRecursion(a, types)},
			{RuleConfig, p.checkPluginTypes(a, types)},
		} {
			if err := p.refuse(checked.rule, a.Origin, i, checked.err); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkNetworkName returns an error for a configuration without a name, or with a name that the CNI specification does
// not allow. The name becomes a part of file names (libcni's cache, host-local's directory), of log lines and of
// messages.
func (p *planning) checkNetworkName(i int, a *Attachment) error {
	if a.Config.Name() == "" {
		return fault.NetworkUnnamed.New(i, p.req.Pod(), a.Origin)
	}
	if err := utils.ValidateNetworkName(a.Config.Name()); err != nil {
		return fault.NetworkNameInvalid.New(a.Name, p.req.Pod(), a.Config.Name())
	}
	return nil
}

func (p *planning) checkAmbiguous(a *Attachment) error {
	if err := a.Source.Ambiguous; err != nil {
		return fault.ConfigAmbiguous.Wrap(err, a.Name, p.req.Pod())
	}
	return nil
}

// checkVersion returns an error for a cniVersion that libcni cannot parse. With such a version ADD succeeds if the
// plugin does not check the version, and then every DEL fails.
func (p *planning) checkVersion(a *Attachment) error {
	if !a.Config.HasValidVersion() {
		return fault.NetworkVersionInvalid.New(a.Name, p.req.Pod(), fault.Clip(a.Config.Version(), fault.MaxValue))
	}
	return nil
}

// checkRecursion returns an error for a network that delegates to Multus (multus-cni#1130).
func (p *planning) checkRecursion(a *Attachment, types []string) error {
	if slices.ContainsFunc(types, cniconf.IsMultus) {
		return fault.DelegatesToMultus.New(a.Name, p.req.Pod())
	}
	return nil
}

func (p *planning) checkPluginTypes(a *Attachment, types []string) error {
	if err := cniconf.CheckTypes(types); err != nil {
		return fault.PluginTypeInvalid.Wrap(err, a.Name, p.req.Pod())
	}
	return nil
}

// attach adds an attachment to the plan.
func (p *planning) attach(a *Attachment) error {
	if a.Config != nil {
		if err := p.refuse(RuleLimit, a.Origin, len(p.out), p.reserve(a.Config.Size())); err != nil {
			return err
		}
	}
	p.out = append(p.out, *a)
	return nil
}

// reserve returns an error if a configuration of size bytes does not fit into the plan together with the present ones.
// It must be called before anything is copied. cni-args are merged into every plugin of a list, so that a small
// definition and a small annotation can produce a configuration of hundreds of megabytes.
func (p *planning) reserve(size int) error {
	for i := range p.out {
		if l := p.out[i].Config; l != nil {
			size += l.Size()
		}
	}
	for i := range p.attached {
		size += p.attached[i].Size
	}
	if size > MaxBytes {
		return fault.ConfigsTooLarge.New(p.req.Pod(), MaxBytes)
	}
	if p.Reserve == nil {
		return nil
	}
	return p.Reserve(size)
}

// argsSize returns the maximum number of bytes that the cni-args of an element add to each plugin.
func argsSize(e *netsel.Element) int {
	const around, escaped = len(`"args":{"cni":{}},"":,`), len(`\u003c`) // each character of a key may become an escape
	size := 0
	for key, value := range e.CNIArgs {
		size += escaped*len(key) + len(value) + around
	}
	return size
}

// checkInterfaceName returns an error for a name that the kernel refuses, and for one with characters that are not
// printable.
func checkInterfaceName(name string) error {
	if err := utils.ValidateInterfaceName(name); err != nil {
		return fmt.Errorf("%s %s", err.Msg, err.Details)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("interface name contains a character that cannot be printed")
	}
	return nil
}

// defaultRoutes distributes the default-route requests: the requested family moves, the other one stays (behaviour
// D30-D35). An empty list requests no family: the attachment keeps what its plugin provides.
func (p *planning) defaultRoutes() error {
	owner := map[bool]int{}
	for i := range p.out {
		if p.out[i].Request == nil || p.out[i].Request.DefaultRoute == nil {
			continue
		}
		for _, gw := range *p.out[i].Request.DefaultRoute {
			if _, ok := owner[gw.Is6()]; ok {
				err := p.refuse(RuleDefaultRoute, p.out[i].Origin, i, fault.GatewaysConflict.New(p.out[i].Name, p.req.Pod()))
				if err != nil {
					return err
				}
				continue
			}
			owner[gw.Is6()] = i
			p.out[i].Routes.Gateways = append(p.out[i].Routes.Gateways, gw)
		}
	}
	v4, has4 := owner[false]
	v6, has6 := owner[true]
	for i := range p.out {
		p.out[i].Routes.DropIPv4 = has4 && v4 != i
		p.out[i].Routes.DropIPv6 = has6 && v6 != i
	}
	return nil
}

// finish adds what delegates get besides their configuration, and returns the plan.
func (p *planning) finish() (*Plan, error) {
	out := &Plan{
		CNIVersion: p.conf.CNIVersion, ContainerID: p.req.ContainerID, Netns: p.req.Netns,
		Dirs: Dirs{State: p.conf.CNIDir, Binary: p.conf.BinDir}, Attachments: p.out,
		StatusWait: p.conf.StatusWait && p.req.Command == request.Add,
	}
	if p.pod != nil {
		out.Pod = p.pod.Identity()
	}
	for i := range out.Attachments {
		if err := p.arguments(&out.Attachments[i]); err != nil {
			return nil, err
		}
	}
	if err := p.stages(out); err != nil {
		return nil, err
	}
	return out, nil
}

// arguments sets what a delegate gets besides its configuration.
func (p *planning) arguments(a *Attachment) error {
	uid := ""
	if p.pod != nil {
		uid = p.pod.UID
	}
	a.Inherited = a.Source.Unversioned && p.conf.CNIVersion != ""
	a.Args = DelegateArgs(p.req.Args.Delegate(uid), a.Request)
	return p.runtimeConfig(a)
}

// DelegateArgs adds the older form of mac and ips to CNI_ARGS, at every verb (behaviour C67: today's Multus adds
// them on ADD only, and an empty list as an empty value).
func DelegateArgs(args request.Args, e *netsel.Element) request.Args {
	if e == nil {
		return args
	}
	if e.MAC != "" {
		args = args.With("MAC", e.MAC)
	}
	if len(e.IPs) > 0 {
		args = args.With("IP", strings.Join(e.IPs, ","))
	}
	return args
}

// runtimeConfig sets what the pod requested and, for the cluster network, what the runtime passed (behaviour C63,
// C66; C54, C64; NPWG v1.3 §7.5).
func (p *planning) runtimeConfig(a *Attachment) error {
	rc := map[string]json.RawMessage{}
	if a.Primary {
		maps.Copy(rc, p.conf.RuntimeConfig)
	}
	if a.Request != nil {
		if err := Requested(rc, a.Request); err != nil {
			return err
		}
	}
	if a.Device != "" {
		rc["deviceID"] = jsonString(a.Device)
	}
	if _, ok := rc["deviceID"]; ok {
		a.DeviceInfo = DeviceInfoFile(a.Name, p.req.ContainerID, a.IfName)
		rc["CNIDeviceInfoFile"] = jsonString(a.DeviceInfo)
	}
	if len(rc) > 0 {
		a.RuntimeConfig = rc
	}
	return nil
}

// Requested sets the members of rc that a selection element requests (behaviour C22-C29).
func Requested(rc map[string]json.RawMessage, e *netsel.Element) error {
	set := func(key string, present bool, value any) error {
		if !present {
			return nil
		}
		b, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		rc[key] = b
		return nil
	}
	for _, err := range []error{
		set("ips", len(e.IPs) > 0, e.IPs),
		set("mac", e.MAC != "", e.MAC),
		set("infinibandGUID", e.InfinibandGUID != "", e.InfinibandGUID),
		set("portMappings", len(e.PortMappings) > 0, e.PortMappings),
		set("bandwidth", e.Bandwidth != nil, e.Bandwidth),
		set("deviceID", e.DeviceID != "", e.DeviceID),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// DeviceInfoFile returns the path at which consumers of device plugins expect the device-info file (behaviour C71,
// Q13).
func DeviceInfoFile(name, containerID, ifName string) string {
	return DeviceInfoDir + "/" + strings.ReplaceAll(name+"-"+containerID+"_"+ifName, "/", "-")
}

func jsonString(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil { // a string always encodes
		panic(err)
	}
	return b
}

// Gateway returns the gateway of a family that the attachment has to set, or the zero address.
func (r Routes) Gateway(v6 bool) netip.Addr {
	i := slices.IndexFunc(r.Gateways, func(a netip.Addr) bool { return a.Is6() == v6 })
	if i < 0 {
		return netip.Addr{}
	}
	return r.Gateways[i]
}
