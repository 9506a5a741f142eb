package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/config"
	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/source/file"
)

// unknownClusterNetwork is the configuration that is used if the cluster network is unknown.
const unknownClusterNetwork = `{"cniVersion":"1.0.0","name":"multus-cni-network","type":"multus-shim",
	"delegates":[{"cniVersion":"1.0.0","name":"cluster-network","type":"unknown-here"}]}`

// explainOutput is what `explain -o json` prints for each pod.
type explainOutput struct {
	*plan.Explanation
	// Notes are the assumptions of the explanation, and what the resolver would log at ADD.
	Notes []string `json:"notes,omitempty"`
	// Problems are the problems of an ADD on this node: plugins that do not exist, and devices that the pod may not have.
	Problems []string `json:"problems,omitempty"`
	// HostNetwork is the pod if it uses the network of its node. The runtime calls no CNI plugin for such a pod.
	HostNetwork *plan.Ref `json:"hostNetwork,omitempty"`
	// Failure is the reason why an ADD of the pod would fail. Nothing would be attached.
	Failure *failure `json:"failure,omitempty"`
}

type failure struct {
	Pod     plan.Ref `json:"pod"`
	Code    uint     `json:"code"`
	Message string   `json:"message"`
	Fix     string   `json:"fix,omitempty"`
}

// explain has the flags and sources of one call.
type explain struct {
	*app
	files        []string
	node         string
	conf, daemon string
	devices      []string
	running      bool
	notes        []string
	networks     plan.Networks
	pods         plan.Pods
	hostNetwork  func(context.Context, plan.Ref) (bool, error)
	podsIn       *source
}

func (a *app) explainCommand() *cobra.Command {
	e := &explain{app: a}
	c := &cobra.Command{
		Use:   "explain pod NAMESPACE/NAME | -f FILE",
		Short: "Show what would be attached to a pod, and where every value comes from",
		Long: "Show what would be attached to a pod: each network, where every value comes from, and the exact\n" +
			"configuration that each plugin gets. It is a dry run of ADD: nothing is attached and nothing is written.\n" +
			"On a node, it starts from the node's configuration and reports plugins and devices that ADD would not get.\n" +
			"With --node, it does this for another node: it runs in the daemon's pod there, through kubectl, with the\n" +
			"daemon's permissions. With --running, it shows what would be removed and added if the networks of the\n" +
			"running pod were changed now.",
		Example: "  multusctl explain pod team-a/web-0\n  kubectl multus explain pod team-a/web-0 --node worker-3\n  " +
			"kubectl multus explain -f pod.yaml --node worker-3\n" +
			"  kubectl multus explain pod team-a/web-0 --running --node worker-3\n" +
			"  multusctl explain -f networks.yaml -f pod.yaml\n  multusctl explain -f pod.yaml --config 00-multus.conf " +
			"--device vendor.example/nic=0000:3b:02.1",
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			pods, err := e.podArguments(args)
			if err != nil {
				return err
			}
			if !e.isThisNode(e.node) {
				return e.explainOnNode(cmd, pods)
			}
			return e.run(cmd.Context(), pods)
		},
	}
	a.source.add(c.Flags())
	c.Flags().StringArrayVarP(&e.files, "filename", "f", nil,
		"`file` with pods and definitions, or - for standard input; may be repeated. Definitions that are in no file are "+
			"read from the cluster or --networks-dir")
	a.nodeFlag(c, &e.node)
	c.Flags().StringVar(&e.conf, "config", "",
		"CNI configuration `file` of the node (default: the one that calls Multus on this node)")
	c.Flags().StringVar(&e.daemon, "daemon-config", "",
		"the daemon's configuration `file`, which overrides that of each request (default: that of this node, if --config "+
			"is not set)")
	c.Flags().StringArrayVar(&e.devices, "device", nil,
		"`RESOURCE=ID`: a device that the kubelet would give to the pod; may be repeated (default: as the kubelet of this "+
			"node reports)")
	c.Flags().BoolVar(&e.running, "running", false,
		"show what would be changed in the running pod: the differences between its record on this node and what it "+
			"requests now")
	return c
}

// podArguments returns the pods of the command line, or none for the pods of the files. It reports mistakes before any
// request is sent.
func (e *explain) podArguments(args []string) ([]plan.Ref, error) {
	if len(args) > 0 && args[0] == "pod" {
		args = args[1:]
	}
	switch {
	case len(args) > 1:
		return nil, usageError{errors.New("too many arguments: want pod NAMESPACE/NAME")}
	case len(args) == 0 && len(e.files) == 0:
		return nil, usageError{errors.New("name a pod, or give -f FILE")}
	}
	return parseRefs(args)
}

func (e *explain) run(ctx context.Context, named []plan.Ref) error {
	devices, err := e.allocatedDevices()
	if err != nil {
		return err
	}
	if err := e.connect(); err != nil {
		return err
	}
	refs, err := e.podsToExplain(ctx, named)
	if err != nil {
		return err
	}
	conf, err := e.configuration()
	if err != nil {
		return err
	}
	if e.running {
		return e.runRunning(ctx, refs, conf, devices)
	}
	var all []explainOutput
	failed := false
	for _, ref := range refs {
		out, err := e.explainPod(ctx, ref, conf, devices)
		if err != nil {
			return err
		}
		failed = failed || out.Failure != nil || len(out.Problems) > 0
		all = append(all, *out)
	}
	err = e.print(map[string]any{"pods": all}, func(w io.Writer) {
		for i := range all {
			e.write(w, &all[i])
		}
	})
	if err == nil && failed {
		err = errFound
	}
	return err
}

// connect opens the sources of pods and definitions: the files first, and then what the flags name. With files, a
// cluster is optional.
func (e *explain) connect() error {
	rest, err := e.open()
	if len(e.files) == 0 {
		if err != nil {
			return err
		}
		e.networks, e.pods, e.hostNetwork, e.podsIn = rest, rest, rest.hostNetwork, rest
		return nil
	}
	if err != nil && !errors.Is(err, errNoSource) {
		return err
	}
	read, err := e.readFiles(e.files)
	if err != nil {
		return err
	}
	o := file.Options{Contents: map[string][]byte{}}
	for _, f := range read {
		o.Files, o.Contents[f.Name] = append(o.Files, f.Name), f.Data
	}
	files := fileSource(o)
	l := layeredSource{files: files, rest: rest}
	e.networks, e.pods, e.hostNetwork, e.podsIn = l, l, l.hostNetwork, files
	return nil
}

// podsToExplain returns the pods to explain: those that are named, or all of the files.
func (e *explain) podsToExplain(ctx context.Context, named []plan.Ref) ([]plan.Ref, error) {
	if len(named) > 0 {
		return named, nil
	}
	pods, err := e.podsIn.pods(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []plan.Ref
	for _, p := range pods {
		out = append(out, p.Ref)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no pod in the %s", e.podsIn.name)
	}
	return out, nil
}

// configuration returns the CNI configuration of the node, as the runtime passes it, with the daemon's configuration
// merged into it.
func (e *explain) configuration() ([]byte, error) {
	conf, daemon, err := e.nodeFiles()
	if err != nil || daemon == nil {
		return conf, err
	}
	d, err := config.ParseDaemon(daemon)
	if err != nil {
		return nil, fmt.Errorf("the daemon's configuration: %w", err)
	}
	if e.running && !d.HotPlug {
		e.notes = append(e.notes, "the daemon does not change the networks of running pods: hotPlug is not set in its file")
	}
	return d.ForRequest(conf)
}

// flagDevices are the devices of --device.
type flagDevices map[string][]string

// Devices returns the devices for any pod.
func (d flagDevices) Devices(context.Context, plan.Ref, string) (*plan.Allocation, error) {
	return &plan.Allocation{IDs: d}, nil
}

// allocatedDevices returns the devices of the pod: those of the flags, or those that the kubelet reports.
func (e *explain) allocatedDevices() (plan.Devices, error) {
	if len(e.devices) == 0 {
		return e.allocated(), nil
	}
	out := flagDevices{}
	for _, d := range e.devices {
		resource, id, ok := strings.Cut(d, "=")
		if !ok || resource == "" || id == "" {
			return nil, usageError{fmt.Errorf("--device %q: want RESOURCE=ID", d)}
		}
		out[resource] = append(out[resource], id)
	}
	return out, nil
}

// explainPod makes the plan of an ADD and explains it, or explains why the ADD would fail.
func (e *explain) explainPod(ctx context.Context, ref plan.Ref, raw []byte,
	devices plan.Devices,
) (*explainOutput, error) {
	conf, err := config.ParsePlugin(raw)
	if err != nil {
		return nil, err
	}
	req := &request.Request{
		Command: request.Add, ContainerID: "dry-run", Netns: "/run/netns/dry-run", IfName: "eth0", Config: raw,
		Args: request.Args{
			{request.IgnoreUnknown, "1"},
			{request.PodNamespace, ref.Namespace},
			{request.PodName, ref.Name},
			{request.InfraContainer, "dry-run"},
		},
	}
	r, logged := e.resolver(devices)
	out := &explainOutput{Notes: e.notes}
	if host, err := e.hostNetwork(ctx, ref); err == nil && host {
		out.HostNetwork = &ref
		return out, nil
	}
	p, err := r.Plan(ctx, req, conf)
	if err == nil {
		out.Explanation, err = plan.Explain(p, req, conf)
	}
	if err == nil {
		out.Problems = e.nodeProblems(p, conf)
	}
	if err != nil {
		out.Failure = newFailure(ref, err)
	}
	out.Notes = append(out.Notes, logged()...)
	return out, nil
}

// resolver returns a resolver, and a function that returns the warnings that it has logged.
func (e *explain) resolver(devices plan.Devices) (*plan.Resolver, func() []string) {
	logged := &bytes.Buffer{}
	log := slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: withoutTime}))
	lines := func() (out []string) {
		for line := range strings.Lines(logged.String()) {
			out = append(out, strings.TrimSpace(line))
		}
		return out
	}
	return &plan.Resolver{
		Networks: e.networks, Pods: e.pods, Devices: devices, PhysicalFunction: device.PhysicalFunction, Log: log,
	}, lines
}

func newFailure(pod plan.Ref, err error) *failure {
	ce := fault.ToCNI(err)
	return &failure{Pod: pod, Code: ce.Code, Message: ce.Msg, Fix: ce.Details}
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// write writes one explanation as text.
func (e *explain) write(w io.Writer, o *explainOutput) {
	if o.HostNetwork != nil {
		fmt.Fprintf(w, "%s\n%s\n", e.paint(bold, "pod "+o.HostNetwork.String()), noNetwork)
	}
	if f := o.Failure; f != nil {
		fmt.Fprintln(w, e.paint(bold, "pod "+f.Pod.String()))
		e.writeFailure(w, "would fail,", f)
	}
	if x := o.Explanation; x != nil {
		fmt.Fprintln(w, e.paint(bold, "pod "+x.Pod.String()))
		e.values(w, "  ", x.Values)
		for i, a := range x.Attachments {
			fmt.Fprintln(w)
			e.writeAttachment(w, fmt.Sprintf("%d. %s: %s", i+1, a.IfName, a.Network), &a)
		}
	}
	e.writeRemarks(w, o.Problems, o.Notes)
}

// noNetwork is the explanation of a pod with hostNetwork.
const noNetwork = "no network: hostNetwork, the pod is in the network of its node and the runtime calls no CNI plugin for it"

func (e *explain) writeFailure(w io.Writer, what string, f *failure) {
	fmt.Fprintf(w, "%s code %d: %s\n  %s\n", e.paint(red, what), f.Code, f.Message, f.Fix)
}

func (e *explain) writeAttachment(w io.Writer, title string, a *plan.Explained) {
	fmt.Fprintln(w, e.paint(bold, title))
	e.values(w, "   ", a.Values)
	for _, d := range a.Plugins {
		fmt.Fprintf(w, "   %s gets\n     %s\n", d.Type, indented(d.Config))
	}
}

// writeRemarks ends the explanation of one pod.
func (e *explain) writeRemarks(w io.Writer, problems, notes []string) {
	for _, p := range problems {
		fmt.Fprintf(w, "\n%s %s\n", e.paint(red, "on this node:"), p)
	}
	for _, n := range notes {
		fmt.Fprintf(w, "\n%s %s\n", e.paint(yellow, "note:"), n)
	}
	fmt.Fprintln(w)
}

func (e *explain) values(w io.Writer, indent string, values []plan.Value) {
	rows := make([][]string, len(values))
	for i, v := range values {
		rows[i] = []string{indent + v.Name, v.Value, v.From}
	}
	columns(w, rows...)
	for _, v := range values {
		if v.Lost != "" && strings.HasPrefix(v.From, "annotation") {
			fmt.Fprintf(w, "%s%s %s is not passed on: %s\n", indent, e.paint(yellow, "warning:"), v.Name, v.Lost)
		}
	}
}

func indented(conf json.RawMessage) string {
	var b bytes.Buffer
	if json.Indent(&b, conf, "     ", "  ") != nil {
		return string(conf)
	}
	return b.String()
}
