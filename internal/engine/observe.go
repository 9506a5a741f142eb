package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"multus/internal/device"
	"multus/internal/engine/ledger"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/engine/session"
	"multus/internal/fsx"
	"multus/internal/link"
)

// maxAddresses limits the addresses of an interface. A sandbox with more is not compared.
const maxAddresses = 1024

// none is the result of an attachment that has none.
const none = `{"cniVersion":"1.0.0"}`

// Interfaces returns the interfaces of a namespace of the node.
func (hostNetns) Interfaces(netns string) (out []publish.Interface, err error) {
	ns, err := link.Open(netns)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	states, err := ns.States()
	if err != nil {
		return nil, err
	}
	for i := range states {
		s := &states[i]
		one := publish.Interface{Name: s.Name, AltNames: s.AltNames, MAC: s.MAC, MTU: s.MTU}
		for _, a := range s.Addresses {
			one.Addresses = append(one.Addresses, publish.Address(a))
		}
		out = append(out, one)
	}
	return out, nil
}

// Observe calls yield for each recorded sandbox with what it has (behaviour R25), until ctx ends. It changes nothing,
// and leaves out the sandboxes with an ADD, a DEL or another change under way, those whose record does not permit
// changes, and those that are gone. Of a sandbox in which a change has left an attachment pending, it only reports that
// (behaviour R33), also while something else is under way. req has no sandbox. stateDir is that of the records, or ""
// for the one of the configuration.
func (e *Engine) Observe(ctx context.Context, req *request.Request, stateDir string, yield func(*publish.Observation),
) error {
	s, err := e.begin(req)
	if err != nil {
		return err
	}
	store := s.LedgerIn(stateDir)
	ids, err := store.Recorded()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		o, err := observeOne(s, store, id)
		switch {
		case err == nil && o != nil:
			yield(o)
		case err != nil && !errors.Is(err, link.ErrNoNamespace) && !errors.Is(err, fsx.ErrLocked):
			s.Log.Debug("sandbox is not compared with its network status", "container", id, "err", err)
		}
	}
	return nil
}

// observeOne returns what a sandbox has, or nil if it must not be compared. It does not wait for its lock.
func observeOne(s *session.Session, store *ledger.Store, id string) (o *publish.Observation, err error) {
	lock, err := fsx.TryAcquire(s.LockFile, id)
	if err != nil && !errors.Is(err, fsx.ErrLocked) {
		return nil, err
	}
	if lock != nil {
		defer func() { err = errors.Join(err, lock.Release()) }()
	}
	r, surveyErr := store.Survey(id, ledger.DefaultIfName)
	if surveyErr != nil || len(r.Attachments) == 0 || r.Unchangeable(s.Boot) != "" {
		return nil, surveyErr
	}
	if slices.ContainsFunc(r.Attachments, func(a ledger.Attachment) bool { return a.Pending }) {
		return &publish.Observation{Pod: session.PodOf(r), ContainerID: r.ContainerID, Pending: true}, nil
	}
	if lock == nil {
		return nil, err
	}
	return observe(s.Locked(store, lock), r)
}

// observe returns what a sandbox has, while its lock is held. Attachments that are pending are left out. After an error
// it returns what it could read, without the interfaces of the kernel if these could not be read.
func observe(b *session.Sandbox, r *ledger.Record) (*publish.Observation, error) {
	o := &publish.Observation{Pod: session.PodOf(r), ContainerID: r.ContainerID, Netns: r.Netns}
	run := b.Delegates(r)
	defer run.Close()
	var errs []error
	named := map[string]bool{}
	for i := range r.Attachments {
		a := &r.Attachments[i]
		if a.Pending {
			continue
		}
		result, err := run.Result(r, a)
		if err != nil && a.Reattaching {
			result, err = json.RawMessage(none), nil
		}
		if err == nil {
			err = nameInterfaces(named, result)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if hasDevice(a) {
			o.Devices = append(o.Devices, a.IfName)
		}
		if a.Reattaching {
			o.Unfinished = append(o.Unfinished, a.IfName)
		}
		o.Attached = append(o.Attached, publish.Attached{
			Name: a.Name, IfName: a.IfName, Primary: a.Primary, Result: result, DeviceInfo: readDeviceInfo(a),
			Claim: a.Claim,
		})
	}
	interfaces, err := b.Netns.Interfaces(r.Netns)
	for i := range interfaces {
		itf := &interfaces[i]
		if !named[itf.Name] && !slices.ContainsFunc(itf.AltNames, func(name string) bool { return named[name] }) {
			continue
		}
		if len(itf.Addresses) > maxAddresses {
			errs = append(errs, fmt.Errorf("interface %s has %d addresses", itf.Name, len(itf.Addresses)))
		}
		o.Interfaces = append(o.Interfaces, *itf)
	}
	return o, errors.Join(append(errs, err)...)
}

// nameInterfaces adds the names of the interfaces of a result.
func nameInterfaces(names map[string]bool, result []byte) error {
	var res struct{ Interfaces []struct{ Name string } }
	if err := json.Unmarshal(result, &res); err != nil {
		return err
	}
	for _, itf := range res.Interfaces {
		names[itf.Name] = true
	}
	return nil
}

// hasDevice reports whether an attachment has a device of the node, which a program in the pod may drive itself: then
// the interface that the plugin reports never existed in the kernel.
func hasDevice(a *ledger.Attachment) bool {
	if a.Resource != "" || a.DeviceID != "" || a.HostDevice != nil {
		return true
	}
	refs, err := device.References(a.Name, a.Config, a.RuntimeConfig)
	return err != nil || slices.ContainsFunc(refs, func(r device.Reference) bool { return r.Use == device.Moves })
}
