package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/fault"
	"multus/internal/node"
)

// runningOutput is what `explain --running -o json` prints for each sandbox of a pod.
type runningOutput struct {
	Pod       plan.Ref `json:"pod"`
	Container string   `json:"container,omitempty"`
	// Remove and Add are in the order in which the networks would be removed and then added.
	Remove []runningNetwork `json:"remove"`
	Add    []plan.Explained `json:"add"`
	// Refused has the networks that cannot be added, and Ignored those whose changes have no effect.
	Refused []refusedNetwork `json:"refused"`
	Ignored []ignoredNetwork `json:"ignored"`
	// Unfinished has the networks whose ADD was killed. They are deleted before anything else is changed.
	Unfinished []runningNetwork `json:"unfinished,omitempty"`
	// Stale reports whether the network status is about other networks than those of the sandbox. It would be written
	// again.
	Stale bool `json:"stale,omitempty"`
	// Unchangeable is the reason why the networks of this sandbox are not changed.
	Unchangeable string `json:"unchangeable,omitempty"`
	// Problems, Notes, HostNetwork and Failure are those of explainOutput.
	Problems    []string `json:"problems,omitempty"`
	Notes       []string `json:"notes,omitempty"`
	HostNetwork bool     `json:"hostNetwork,omitempty"`
	Failure     *failure `json:"failure,omitempty"`
}

type runningNetwork struct {
	Network string `json:"network"`
	IfName  string `json:"interface"`
}

type refusedNetwork struct {
	Network string `json:"network"`
	// IfName is "" if the pod leaves the choice to Multus.
	IfName  string `json:"interface,omitempty"`
	Code    uint   `json:"code"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

type ignoredNetwork struct {
	runningNetwork
	Keys    []string `json:"keys"`
	Message string   `json:"message"`
}

// none reports whether nothing would be changed, and nothing keeps the pod from having what it requests.
func (o *runningOutput) none() bool {
	return len(o.Remove)+len(o.Add)+len(o.Refused)+len(o.Ignored)+len(o.Unfinished) == 0 && !o.Stale &&
		o.Unchangeable == "" && o.Failure == nil && !o.HostNetwork
}

// found reports whether the explanation has a finding, which gives exit code 1.
func (o *runningOutput) found() bool {
	return len(o.Refused)+len(o.Problems) > 0 || o.Failure != nil || o.Unchangeable != ""
}

// runRunning explains what would be changed in the running sandboxes of pods.
func (e *explain) runRunning(ctx context.Context, refs []plan.Ref, conf []byte, devices plan.Devices) error {
	all := []*runningOutput{}
	for _, ref := range refs {
		out, err := e.explainRunning(ctx, ref, conf, devices)
		if err != nil {
			return err
		}
		all = append(all, out...)
	}
	err := e.print(map[string]any{"pods": all}, func(w io.Writer) {
		for _, o := range all {
			e.writeRunning(w, o)
		}
	})
	if err == nil && slices.ContainsFunc(all, (*runningOutput).found) {
		err = errFound
	}
	return err
}

// explainRunning compares each sandbox of a pod with what the pod requests. It makes no change: neither to the
// sandboxes nor to their records.
func (e *explain) explainRunning(ctx context.Context, ref plan.Ref, raw []byte, devices plan.Devices) (
	[]*runningOutput, error,
) {
	conf, err := config.ParsePlugin(raw)
	if err != nil {
		return nil, err
	}
	if host, err := e.hostNetwork(ctx, ref); err == nil && host { // Pod reports an error below
		out := e.newRunning(ref, "")
		out.HostNetwork = true
		return []*runningOutput{out}, nil
	}
	pod, err := e.pods.Pod(ctx, ref)
	if err != nil {
		return nil, err
	}
	records, others, err := recordsOf(conf.CNIDir, pod)
	if err != nil {
		return nil, err
	}
	switch {
	case len(records) > 0:
	case others > 0:
		return nil, fmt.Errorf("pod %s has no record in %s on this node; a record of that name has another UID: it is that "+
			"of an earlier pod", ref, conf.CNIDir)
	default:
		return nil, fmt.Errorf("pod %s has no record in %s on this node: name the node on which it runs with --node NODE "+
			"(kubectl get pod -n %s %s -o wide); multusctl ledger ls lists the records of a node", ref, conf.CNIDir,
			ref.Namespace, ref.Name)
	}
	var all []*runningOutput
	for _, r := range records {
		out, err := e.explainSandbox(ctx, pod, r, raw, devices)
		if err != nil {
			return nil, err
		}
		all = append(all, out)
	}
	return all, nil
}

func (e *explain) newRunning(pod plan.Ref, container string) *runningOutput {
	return &runningOutput{
		Pod: pod, Container: container, Notes: slices.Clone(e.notes),
		Remove: []runningNetwork{}, Add: []plan.Explained{}, Refused: []refusedNetwork{}, Ignored: []ignoredNetwork{},
	}
}

// recordsOf returns the records of a pod's sandboxes, and the number of records of that name with another UID. A pod
// may have several sandboxes, of which the runtime deletes all but one. A damaged record is left in place.
func recordsOf(dir string, pod *plan.Pod) (own []*ledger.Record, others int, err error) {
	store := &ledger.Store{Dir: dir, Log: slog.New(slog.DiscardHandler)}
	ids, err := store.Containers()
	if err != nil {
		return nil, 0, err
	}
	slices.Sort(ids)
	for _, id := range ids {
		r, err := store.Survey(id, ledger.DefaultIfName)
		if err != nil {
			return nil, 0, err
		}
		of := session.PodOf(r)
		switch {
		case of.Namespace != pod.Namespace || of.Name != pod.Name:
		case of.UID != pod.UID && of.UID != "" && pod.UID != "" && !pod.IsStatic():
			others++
		default:
			own = append(own, r)
		}
	}
	return own, others, nil
}

// explainSandbox compares one sandbox with what its pod requests.
func (e *explain) explainSandbox(ctx context.Context, pod *plan.Pod, r *ledger.Record, raw []byte,
	devices plan.Devices,
) (*runningOutput, error) {
	out := e.newRunning(pod.Ref, r.ContainerID)
	if out.Unchangeable = e.unchangeable(r); out.Unchangeable != "" {
		return out, nil
	}
	first := &r.Attachments[0]
	args := slices.Clone(first.Args)
	if pod.UID == "" { // a pod of a file
		args = slices.DeleteFunc(args, func(pair [2]string) bool { return pair[0] == request.PodUID })
	}
	req := &request.Request{
		Command: request.Update, ContainerID: r.ContainerID, Netns: r.Netns, IfName: first.IfName, Args: args,
		Config: raw,
	}
	conf, err := req.Plugin()
	if err != nil {
		return nil, err
	}
	resolver, logged := e.resolver(devices)
	has, _ := r.Attached()
	changes, err := resolver.Diff(ctx, req, conf, has)
	if err == nil {
		err = out.describe(r, has, changes, req)
	}
	if err == nil {
		out.Problems = e.nodeProblems(&plan.Plan{
			Pod: changes.Pod, Attachments: changes.Add,
			Dirs: plan.Dirs{State: conf.CNIDir, Binary: cmp.Or(r.BinDir, conf.BinDir)},
		}, conf)
	}
	if err != nil {
		out.Failure = newFailure(pod.Ref, err)
	}
	out.Notes = append(out.Notes, logged()...)
	return out, nil
}

// unchangeable returns the reason why the networks of a sandbox are not changed. A pod does not see the network
// namespaces of other pods.
func (e *explain) unchangeable(r *ledger.Record) string {
	if why := r.Unchangeable(node.Boot()); why != "" || e.inPod() || netnsState(r.Netns) != stateGone {
		return why
	}
	return "the network namespace " + r.Netns + " is gone"
}

// describe sets what would be changed.
func (o *runningOutput) describe(r *ledger.Record, has []plan.Attached, c *plan.Changes, req *request.Request) error {
	for i := range slices.Backward(r.Attachments) {
		if a := &r.Attachments[i]; a.Pending {
			o.Unfinished = append(o.Unfinished, runningNetwork{a.Name, a.IfName})
		}
	}
	for _, i := range c.Remove {
		o.Remove = append(o.Remove, runningNetwork{has[i].Name, has[i].IfName})
	}
	for _, u := range c.Refused {
		ce := fault.ToCNI(u.Err)
		o.Refused = append(o.Refused, refusedNetwork{u.Name, u.IfName, ce.Code, ce.Msg, ce.Details})
	}
	for _, i := range c.Ignored {
		o.Ignored = append(o.Ignored, ignoredNetwork{runningNetwork{i.Name, i.IfName}, i.Keys, i.String()})
	}
	o.Stale = c.Stale
	conf, err := req.Plugin()
	if err != nil {
		return err
	}
	added, err := plan.ExplainAdded(c, req, conf)
	o.Add = append(o.Add, added...)
	return err
}

// writeRunning writes one explanation as text.
func (e *explain) writeRunning(w io.Writer, o *runningOutput) {
	title := "pod " + o.Pod.String()
	if o.Container != "" {
		title += ", container " + short(o.Container)
	}
	fmt.Fprintln(w, e.paint(bold, title))
	switch {
	case o.HostNetwork:
		fmt.Fprintln(w, noNetwork)
	case o.Failure != nil:
		e.writeFailure(w, "nothing would be changed,", o.Failure)
	case o.Unchangeable != "":
		fmt.Fprintf(w, "%s %s\n", e.paint(red, "nothing would be changed:"), o.Unchangeable)
	case o.none():
		fmt.Fprintln(w, "nothing to change: the pod has the networks that it requests")
	}
	for _, n := range o.Unfinished {
		fmt.Fprintf(w, "%s, because its ADD was not finished\n", e.removal(n))
	}
	for _, n := range o.Remove {
		fmt.Fprintln(w, e.removal(n))
	}
	for _, a := range o.Add {
		e.writeAttachment(w, fmt.Sprintf("would be added: %s: %s", a.IfName, a.Network), &a)
	}
	for _, r := range o.Refused {
		what := "refused: " + r.Network
		if r.IfName != "" {
			what = "refused: " + r.IfName + ": " + r.Network
		}
		e.writeFailure(w, what+",", &failure{Code: r.Code, Message: r.Message, Fix: r.Fix})
	}
	for _, i := range o.Ignored {
		fmt.Fprintf(w, "%s %s\n", e.paint(yellow, "ignored:"), i.Message)
	}
	if o.Stale {
		fmt.Fprintln(w, "the network status is about other networks: it would be written again")
	}
	e.writeRemarks(w, o.Problems, o.Notes)
}

func (e *explain) removal(n runningNetwork) string {
	return e.paint(bold, "would be removed: "+n.IfName+": "+n.Network)
}
