package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/spf13/cobra"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/netsel"
	"multus/internal/source/kube"
)

const (
	// defaultWait is how long attach pod and detach pod wait for the result, unless --timeout is set.
	defaultWait = time.Minute
	// pollInterval is the pause between two looks at the pod.
	pollInterval = time.Second
)

// podNetwork is one call of attach pod or detach pod.
type podNetwork struct {
	*app
	attaching bool
	name      string
	ifName    string
	timeout   time.Duration
	noWait    bool

	client *kube.Client
	pod    plan.Ref
	// network is the network of the pod, and element the part of the annotation that names it.
	network plan.Ref
	element netsel.Element
	// node is that of the pod, or "" before it is scheduled.
	node string
	// target is the interface of the element that was added or removed, or "" if the daemon has chosen it.
	target string
}

// podNetworkOutput is what attach pod and detach pod print with -o json.
type podNetworkOutput struct {
	Pod     string `json:"pod"`
	Network string `json:"network"`
	// Interface is "" if it is not known.
	Interface string `json:"interface,omitempty"`
	// State is "attached", "detached", or "requested" if the command did not wait.
	State string `json:"state"`
	// Annotation is the new value of the annotation.
	Annotation string `json:"annotation"`
}

func (a *app) attachPodCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "pod NAMESPACE/NAME --network [NAMESPACE/]NAME",
		Short: "Attach a network to a running pod, by its annotation",
		Long: "Add a network to the annotation " + netsel.Networks + " of a running pod, with the permissions\n" +
			"of your kubeconfig, and wait until the pod has the interface. The daemon of the pod's node attaches it, if\n" +
			"hotPlug is set in its file. Exit code 1 if the pod does not get the interface.",
		Example: "  multusctl attach pod team-a/web-0 --network storage --interface data0\n" +
			"  kubectl multus attach pod team-a/web-0 --network shared/storage --no-wait",
	}
	return a.podNetworkCommand(c, true)
}

func (a *app) detachPodCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "pod NAMESPACE/NAME --network [NAMESPACE/]NAME",
		Short: "Detach a network from a running pod, by its annotation",
		Long: "Remove a network from the annotation " + netsel.Networks + " of a running pod, with the\n" +
			"permissions of your kubeconfig, and wait until the pod no longer has the interface. The daemon of the pod's\n" +
			"node detaches it, if hotPlug is set in its file. Exit code 1 if the pod still has the interface.",
		Example: "  multusctl detach pod team-a/web-0 --network storage\n" +
			"  kubectl multus detach pod team-a/web-0 --network shared/storage --interface data0",
	}
	return a.podNetworkCommand(c, false)
}

func (a *app) podNetworkCommand(c *cobra.Command, attaching bool) *cobra.Command {
	n := &podNetwork{app: a, attaching: attaching}
	c.Args = cobra.ExactArgs(1)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := n.parse(args[0]); err != nil {
			return err
		}
		return n.run(cmd.Context())
	}
	a.source.addKubeconfig(c.Flags())
	f := c.Flags()
	f.StringVar(&n.name, "network", "", "`name` of the network definition, with its namespace if it is not the pod's")
	ifName := "`name` of the interface in the annotation, if the annotation names the network several times"
	if attaching {
		ifName = "`name` of the interface in the pod (default: the daemon chooses one)"
	}
	f.StringVar(&n.ifName, "interface", "", ifName)
	f.DurationVar(&n.timeout, "timeout", defaultWait, "how long to wait for the result")
	f.BoolVar(&n.noWait, "no-wait", false, "do not wait for the result")
	return c
}

// parse checks the command line.
func (n *podNetwork) parse(pod string) (err error) {
	if n.pod, err = parseRef(pod); err != nil {
		return err
	}
	if n.name == "" {
		return usageError{errors.New("no network: give --network NAME")}
	}
	namespace, name, ok := strings.Cut(n.name, "/")
	if !ok {
		namespace, name = "", n.name
	}
	if name == "" || ok && namespace == "" || strings.ContainsAny(name, "/@, ") {
		return usageError{fmt.Errorf("--network %q is not a network: want NAME or NAMESPACE/NAME", n.name)}
	}
	if n.ifName != "" {
		if err := utils.ValidateInterfaceName(n.ifName); err != nil {
			return usageError{fmt.Errorf("--interface %q: %s %s", n.ifName, err.Msg, err.Details)}
		}
	}
	if n.timeout <= 0 {
		return usageError{errors.New("--timeout must be greater than 0; with --no-wait the command does not wait")}
	}
	n.element = netsel.Element{Namespace: namespace, Name: name, Interface: n.ifName}
	n.network = plan.Ref{Namespace: cmp.Or(namespace, n.pod.Namespace), Name: name}
	return nil
}

func (n *podNetwork) run(ctx context.Context) error {
	var err error
	if n.client, _, err = n.kubeClient(); errors.Is(err, errNoSource) {
		return errors.New("no cluster: give --kubeconfig")
	}
	if err == nil {
		err = n.check(ctx)
	}
	if err != nil {
		return err
	}
	w := &waiting{podNetwork: n}
	if err := w.readEvents(ctx); err != nil {
		return err
	}
	var value string
	err = n.client.EditAnnotation(ctx, n.pod, netsel.Networks, func(pod *plan.Pod) (string, error) {
		err := w.begin(pod)
		if err == nil {
			value, err = n.edit(pod)
		}
		return value, err
	})
	if err != nil {
		return withoutPermission(err)
	}
	out := podNetworkOutput{
		Pod: n.pod.String(), Network: n.network.String(), Interface: n.target, State: "requested", Annotation: value,
	}
	if !n.noWait {
		n.say("annotation %s is now %q; waiting up to %s for node %s", netsel.Networks, value, n.timeout, dash(n.node))
		if out.Interface, err = w.wait(ctx); err != nil {
			return err
		}
		out.State = n.goal()
	}
	return n.print(out, func(w io.Writer) { n.write(w, &out) })
}

// goal is the state of the network that the command waits for.
func (n *podNetwork) goal() string {
	if n.attaching {
		return "attached"
	}
	return "detached"
}

func (n *podNetwork) write(w io.Writer, out *podNetworkOutput) {
	on := ""
	if out.Interface != "" {
		on = " (interface " + out.Interface + ")"
	}
	if n.noWait {
		fmt.Fprintf(w, "pod %s: network %s%s is to be %s: the annotation is now %q\n", out.Pod, out.Network, on, n.goal(),
			out.Annotation)
		return
	}
	fmt.Fprintf(w, "pod %s: network %s%s is %s\n", out.Pod, out.Network, on, out.State)
}

// say writes a line about the progress.
func (n *podNetwork) say(format string, args ...any) {
	fmt.Fprintf(&printable{n.Stderr}, format+"\n", args...)
}

// check refuses what cannot succeed before anything is changed. Without the permission to read definitions, the
// definition is not checked.
func (n *podNetwork) check(ctx context.Context) error {
	node, host, err := n.client.Placement(ctx, n.pod)
	if err != nil {
		return withoutPermission(err)
	}
	n.node = node
	if host {
		return fmt.Errorf("pod %s uses the network of its node (hostNetwork): it has no networks of its own", n.pod)
	}
	if !n.attaching {
		return nil
	}
	if _, err = n.client.Network(ctx, n.network); err == nil || isForbidden(err) {
		return nil
	}
	return fmt.Errorf("%w; nothing was changed", err)
}

// edit returns the new value of the annotation.
func (n *podNetwork) edit(pod *plan.Pod) (string, error) {
	value := pod.Annotations[netsel.Networks]
	elements, err := netsel.Parse(value)
	if err != nil {
		return "", fmt.Errorf("read annotation %s of pod %s: %w; correct it first", netsel.Networks, n.pod, err)
	}
	if n.attaching {
		value, err = n.appended(value, elements)
	} else {
		value, err = n.removed(value, elements)
	}
	if err != nil {
		return "", fmt.Errorf("edit annotation %s of pod %s: %w; nothing was changed", netsel.Networks, n.pod, err)
	}
	return value, nil
}

func (n *podNetwork) appended(value string, elements []netsel.Element) (string, error) {
	for i := range elements {
		if e := &elements[i]; n.ifName != "" && e.Interface == n.ifName {
			return "", fmt.Errorf("interface %s is in it already, for network %s: choose another --interface", n.ifName,
				n.refOf(e))
		}
	}
	n.target = n.ifName
	return netsel.Append(value, &n.element)
}

// removed returns the annotation without the element of the network. Of equal elements it removes the last one, because
// the daemon keeps the attachments of the first ones.
func (n *podNetwork) removed(value string, elements []netsel.Element) (string, error) {
	var found []int
	for i := range elements {
		if e := &elements[i]; n.refOf(e) == n.network && (n.ifName == "" || e.Interface == n.ifName) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("it does not name %s; it names %s", describeElement(n.network, n.ifName),
			cmp.Or(n.names(elements), "no network"))
	}
	last := found[len(found)-1]
	for _, i := range found {
		if !reflect.DeepEqual(elements[i], elements[last]) {
			return "", fmt.Errorf("it names network %s several times (%s): name one with --interface, or edit the "+
				"annotation", n.network, n.names(elements))
		}
	}
	n.target = elements[last].Interface
	return netsel.Remove(value, last)
}

// refOf returns the network of an element of the pod's annotation.
func (n *podNetwork) refOf(e *netsel.Element) plan.Ref {
	return plan.Ref{Namespace: cmp.Or(e.Namespace, n.pod.Namespace), Name: e.Name}
}

// names lists the networks of an annotation.
func (n *podNetwork) names(elements []netsel.Element) string {
	var out []string
	for i := range elements {
		out = append(out, describeElement(n.refOf(&elements[i]), elements[i].Interface))
	}
	return strings.Join(out, ", ")
}

func describeElement(network plan.Ref, ifName string) string {
	if ifName == "" {
		return "network " + network.String()
	}
	return "network " + network.String() + " with interface " + ifName
}

func isForbidden(err error) bool { return errors.Is(err, publish.ErrForbidden) }

// withoutPermission returns an error about the user's permissions in place of one about the role of Multus.
func withoutPermission(err error) error {
	if f, ok := errors.AsType[*kube.ForbiddenError](err); ok {
		return fmt.Errorf("your account lacks the verb %q on %s in namespace %s: %w", f.Verb, f.Resource, f.Namespace, f.Err)
	}
	return err
}

// statusInterfaces returns the interfaces of a network in a network status.
func statusInterfaces(status []reportedNetwork, network plan.Ref) (out []string) {
	for _, s := range status {
		if s.Name == network.String() {
			out = append(out, s.Interface)
		}
	}
	return out
}
