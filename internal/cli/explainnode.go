package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"multus/internal/agent/cniconfig"
	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/doctor"
	"multus/internal/engine/plan"
	"multus/internal/node"
)

// explainOnNode explains on another node. It passes the files on. Flags that describe a node are errors, because they
// would not apply to the other node.
func (e *explain) explainOnNode(cmd *cobra.Command, pods []plan.Ref) error {
	if e.conf != "" || e.daemon != "" {
		return usageError{errors.New("--config and --daemon-config describe a node, and --node reads that node's " +
			"configuration: use one or the other")}
	}
	args := forwardedArguments(cmd)
	for _, ref := range pods {
		args = append(args, "pod", ref.String())
	}
	if len(e.files) == 0 {
		return e.runOnNode(cmd.Context(), e.node, nil, args...)
	}
	files, err := e.readFiles(e.files)
	if err != nil {
		return err
	}
	var all bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&all, "---\n%s\n", f.Data)
	}
	return e.runOnNode(cmd.Context(), e.node, all.Bytes(), append(args, "--filename=-")...)
}

// nodeFiles returns the configurations of the plugin and the daemon: those of the flags, or those of this node.
func (e *explain) nodeFiles() (conf, daemon []byte, err error) {
	if e.conf != "" {
		if conf, err = os.ReadFile(e.conf); err != nil {
			return nil, nil, fmt.Errorf("read CNI configuration: %w", err)
		}
		conf = cniconf.PluginConfig(conf)
	} else {
		_, conf, daemon = (&doctor.Node{Root: "/", InPod: e.inPod()}).Configuration()
	}
	if conf == nil {
		conf = []byte(unknownClusterNetwork)
		e.notes = append(e.notes, "the cluster network is unknown on this machine: "+
			"give --config with the node's "+cniconfig.FileName+", or --node")
	}
	if e.daemon != "" {
		if daemon, err = os.ReadFile(e.daemon); err != nil {
			return nil, nil, fmt.Errorf("read the daemon's configuration: %w", err)
		}
	}
	return conf, daemon, nil
}

// nodeProblems returns the problems of an ADD on this machine. It returns none if the machine is no node.
func (e *explain) nodeProblems(p *plan.Plan, conf *config.Plugin) []string {
	if info, err := os.Stat(p.Dirs.Binary); err != nil || !info.IsDir() {
		return nil
	}
	stat := os.Stat
	if e.inPod() {
		stat = os.Lstat // the target of a link may not be mounted
	}
	var out []string
	var asked []device.Reference
	for i := range p.Attachments {
		a := &p.Attachments[i]
		for _, typ := range a.Config.Types() {
			if _, err := stat(filepath.Join(p.Dirs.Binary, typ)); err != nil {
				out = append(out, fmt.Sprintf(
					"plugin %s of network %s is not in %s: ADD would look for it in the runtime's directories, and fail", typ, a.Name,
					p.Dirs.Binary))
			}
		}
		refs, err := device.References(a.Name, a.Config, a.RuntimeConfig)
		if err != nil {
			out = append(out, fmt.Sprintf("ADD would fail: network %s: %v", a.Name, err))
		}
		asked = append(asked, refs...)
	}
	if len(asked) == 0 {
		return out
	}
	inv, err := e.inventory(p.Dirs.State, node.LockFile, conf.NodeAddresses)
	if err != nil {
		return append(out, fmt.Sprintf("cannot list the devices of this machine: %v", err))
	}
	for _, ref := range asked {
		var refusal *device.Refusal
		_, err := inv.Judge(ref)
		if !errors.As(err, &refusal) || refusal.Holder != nil && refusal.Holder.Pod == p.Pod.Namespace+"/"+p.Pod.Name {
			continue // the pod already has the device, which is no problem
		}
		out = append(out, fmt.Sprintf("ADD would fail: %v; %s", refusal, refusal.Next()))
	}
	return out
}
