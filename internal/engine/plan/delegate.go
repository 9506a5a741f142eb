package plan

import (
	"context"
	"slices"

	"multus/internal/config"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
)

// Wanted is one network that a client of the daemon's socket requests for a running pod (behaviour R20).
type Wanted struct {
	IfName string
	// Config is the configuration of the network as the client sends it.
	Config []byte
	// Attributes has the ips, mac and cni-args of the request. They replace those of the pod's annotation.
	Attributes netsel.Element
}

// CheckPod returns an error if the pod that CNI_ARGS name does not exist now.
func (r *Resolver) CheckPod(ctx context.Context, args request.Args) error {
	_, err := r.pod(ctx, &request.Request{Args: args}, &config.Plugin{})
	return err
}

// Delegate decides how a running sandbox gets one network that a client requests (behaviour R21). req and has are those
// of Diff. The element of the pod's annotation for the interface gives the network its name and its owner, so that Diff
// later finds in the sandbox what the annotation requests. The configuration is that of the client. The rules are those
// of Diff, but no device is assigned. The changes have one addition, or none if the network is attached already.
func (r *Resolver) Delegate(ctx context.Context, req *request.Request, conf *config.Plugin, has []Attached,
	w *Wanted,
) (*Changes, error) {
	d, elements, err := r.compare(ctx, req, conf, has)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(elements, func(e netsel.Element) bool { return e.Interface == w.IfName })
	if i < 0 {
		return nil, fault.DelegateNotRequested.New(req.Pod(), w.IfName)
	}
	e := &elements[i]
	ref := refOf(e)
	for i := range has {
		if a := &has[i]; a.IfName == w.IfName && a.Name == ref.String() && d.isPods(a) {
			return d.changes, nil
		}
		d.keep(&has[i])
	}
	if err := d.isolated(ref, FromAnnotation); err != nil {
		return nil, err
	}
	a := &Attachment{Name: ref.String(), Origin: FromAnnotation, Request: w.over(e)}
	if a, err = d.configured(ctx, a, 0, &Definition{Ref: ref, Config: string(w.Config)}); err != nil {
		return nil, err
	}
	if d.add(a); len(d.changes.Refused) > 0 {
		return nil, d.changes.Refused[0].Err
	}
	return d.changes, d.additions()
}

// over returns the element with the attributes of the request.
func (w *Wanted) over(e *netsel.Element) *netsel.Element {
	out := *e
	if len(w.Attributes.IPs) > 0 {
		out.IPs = w.Attributes.IPs
	}
	if w.Attributes.MAC != "" {
		out.MAC = w.Attributes.MAC
	}
	if len(w.Attributes.CNIArgs) > 0 {
		out.CNIArgs = w.Attributes.CNIArgs
	}
	return &out
}
