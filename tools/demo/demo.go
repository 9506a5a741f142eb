package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// cleanLimit bounds the cleanup after a failure or an interruption.
const cleanLimit = 30 * time.Second

// The addresses outside of the node: on the network of eth0, and at the other end of eth1's cable. The networks are
// those of examples/macvlan.yaml and examples/host-device.yaml.
var (
	outsideEth0 = []string{"192.0.2.1/24", "2001:db8:2::1/64"}
	outsideEth1 = []string{"198.51.100.1/24", "2001:db8:51::1/64"}
)

// demo is one run on the node.
type demo struct {
	progress
	options *options
	pid     int // of the node, in the PID namespace of the machine

	node    *netlink.Handle
	outside *namespace
	sandbox *namespace // of the pod
	daemon  *daemon
	pod     *pod
	runtime *containerRuntime

	before *state // before the pod is attached
	during *state // while it is attached
	begun  bool   // ADD has begun and no DEL has succeeded since
}

// run runs the whole demo. It frees what it has attached also if it fails or is interrupted, as a runtime does. An
// error of the cleanup has priority over the interruption.
func (d *demo) run(ctx context.Context) error {
	err := d.attach(ctx)
	if err == nil {
		err = d.show(ctx)
	}
	if err == nil && d.options.keep {
		d.keep(ctx)
		ctx = context.WithoutCancel(ctx)
	}
	if err == nil {
		if err = d.detach(ctx); err == nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		err = errInterrupted // the interruption is the cause, whatever failed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	clean := d.clean(ctx)
	if errors.Is(err, errInterrupted) && clean != nil {
		return fmt.Errorf("clean up after the interruption: %w", clean)
	}
	return errors.Join(err, clean)
}

func (d *demo) attach(ctx context.Context) error {
	return d.all(ctx, []action{
		{"node: a network namespace with two NICs, eth0 and eth1", d.build},
		{"multus-daemon: start, with examples/node/daemon-config.json", d.start},
		{"pod: create a network namespace", d.makeSandbox},
		{"ADD: attach the pod to three networks", d.add},
	})
}

func (d *demo) detach(ctx context.Context) error {
	return d.all(ctx, []action{
		{"DEL: detach the pod", d.del},
		{"check: look for leftover state", d.prove},
		{"multus-daemon: stop", d.stop},
	})
}

// clean detaches the pod after a failure, as far as it was attached.
func (d *demo) clean(ctx context.Context) error {
	var errs []error
	if d.begun {
		errs = append(errs, d.all(ctx, []action{
			{"DEL: detach the pod, after the failure", d.del},
			{"check: look for leftover state", d.prove},
		}))
	}
	if d.daemon != nil {
		errs = append(errs, d.step(ctx, "multus-daemon: stop", d.stop))
	}
	return errors.Join(errs...)
}

type action struct {
	what string
	fn   func(ctx context.Context) ([]string, error)
}

func (d *demo) all(ctx context.Context, actions []action) error {
	for _, a := range actions {
		if err := d.step(ctx, a.what, a.fn); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) build(context.Context) ([]string, error) {
	var err error
	if d.node, err = netlink.NewHandle(); err != nil {
		return nil, err
	}
	if err := setUp(d.node, "lo"); err != nil {
		return nil, err
	}
	if d.outside, err = newNamespace("outside"); err != nil {
		return nil, err
	}
	if err := cable(d.node, "eth0", d.outside, "switch0", outsideEth0...); err != nil {
		return nil, err
	}
	return nil, cable(d.node, "eth1", d.outside, "switch1", outsideEth1...)
}

func (d *demo) start(ctx context.Context) ([]string, error) {
	var err error
	if d.daemon, err = startDaemon(ctx); err != nil {
		return nil, err
	}
	if d.runtime, err = newRuntime(); err != nil {
		return nil, err
	}
	return []string{"the daemon has written " + multusConf + ": the runtime calls multus-shim"}, nil
}

func (d *demo) makeSandbox(context.Context) ([]string, error) {
	var err error
	if d.pod, err = readPod(); err != nil {
		return nil, err
	}
	if d.sandbox, err = newNamespace("pod"); err != nil {
		return nil, err
	}
	if d.before, err = d.look(); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("%s/%s, annotation %s: %s", d.pod.Metadata.Namespace, d.pod.Metadata.Name,
		networksAnnotation, d.pod.networks())}, nil
}

func (d *demo) add(ctx context.Context) ([]string, error) {
	d.begun = true
	return nil, d.runtime.add(ctx, d.pod, d.sandbox.path)
}

func (d *demo) del(ctx context.Context) ([]string, error) {
	if err := d.runtime.del(ctx, d.pod, d.sandbox.path); err != nil {
		return nil, err
	}
	d.begun = false
	return nil, nil
}

func (d *demo) stop(context.Context) ([]string, error) {
	running := d.daemon
	d.daemon = nil
	return nil, running.stop()
}

// show prints what the pod has. Before that it compares the state of the kernel with what was reported.
func (d *demo) show(ctx context.Context) error {
	var err error
	if d.during, err = d.look(); err != nil {
		return err
	}
	status, text, err := readStatus(ctx, d.pod)
	if err != nil {
		return err
	}
	interfaces, err := d.interfaces(status)
	if err != nil {
		return err
	}
	if err := d.expected(interfaces, status); err != nil {
		return err
	}
	printTable(d.out, interfaces)
	printStatus(d.out, text)
	err = d.step(ctx, "ping: from the pod, over each network", func(ctx context.Context) ([]string, error) {
		return d.pings(ctx, interfaces)
	})
	if err != nil {
		return err
	}
	return d.step(ctx, "state: what the node stores for the pod", func(context.Context) ([]string, error) {
		return d.during.held()
	})
}

// keep waits for a signal.
func (d *demo) keep(ctx context.Context) {
	fmt.Fprintf(d.out, `
The pod stays attached until Ctrl-C. In another terminal, as root:

  in the pod      nsenter --net=/proc/%[1]d/root%[2]s ip address
  on the node     nsenter --net=/proc/%[1]d/ns/net ip address
  outside         nsenter --net=/proc/%[1]d/root%[3]s ip address
  its files       ls -R /proc/%[1]d/root/etc/cni /proc/%[1]d/root/run/multus /proc/%[1]d/root/var/lib/cni
  its daemon      cat /proc/%[1]d/root%[4]s
`, d.pid, d.sandbox.path, d.outside.path, daemonLog)
	<-ctx.Done()
	fmt.Fprintln(d.out)
}
