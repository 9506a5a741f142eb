package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
)

// Resolver makes plans. Networks, Pods and Devices may be nil. A plan that needs a missing source is refused; nothing
// is guessed.
type Resolver struct {
	Networks Networks
	Pods     Pods
	Devices  Devices
	// Missing, if set, is called for each network definition that a pod needs and that cannot be obtained (behaviour
	// B8), with the container ID of the request. A definition that a file replaces (behaviour B30) is not needed.
	Missing func(containerID string, pod *Pod, missing *MissingNetworkError)
	// PhysicalFunction, if set, returns the PCI address of the physical function of a virtual function, or "" if it is not
	// known.
	PhysicalFunction func(device string) string
	// Reserve, if set, is called before the configurations of a plan grow to the given total size. It may block. Its error
	// ends the planning.
	Reserve func(bytes int) error
	Log     *slog.Logger
}

// MissingNetworkError is returned for a network that is referenced and cannot be obtained. Its cause wraps ErrNotFound
// or ErrUnavailable where that is the reason.
type MissingNetworkError struct {
	Ref Ref
	Err error
}

// Error returns the text that operators search for (behaviour M4).
func (e *MissingNetworkError) Error() string {
	return fmt.Sprintf("cannot find a network-attachment-definition (%s) in namespace (%s): %v", e.Ref.Name,
		e.Ref.Namespace, e.Err)
}

// Unwrap returns the cause.
func (e *MissingNetworkError) Unwrap() error { return e.Err }

// planning is the state while one plan is made.
type planning struct {
	*Resolver
	req  *request.Request
	conf *config.Plugin
	// pod is nil if there is no Kubernetes and all networks are inline delegates (behaviour D12).
	pod     *Pod
	devices *allocation
	// annotation has the elements of the pod's annotation.
	annotation []netsel.Element
	parsed     map[Ref]parsed
	out        []Attachment
	// running is set by Diff. attached has the attachments of the running sandbox that stay.
	running  bool
	attached []Attached
	// checking is set by Check, which collects the refusals.
	checking bool
	refusals []Refusal
}

// Plan returns the plan for a request. For ADD it is everything that will be done. For DEL of a sandbox without a
// record it is what may have been done. For STATUS and GC it is the cluster network alone, for CHECK with the other
// inline delegates. The errors are faults.
func (r *Resolver) Plan(ctx context.Context, req *request.Request, conf *config.Plugin) (*Plan, error) {
	switch req.Command {
	case request.Add:
		return r.planAdd(ctx, req, conf)
	case request.Del:
		return r.planDelete(ctx, req, conf)
	}
	return r.planCluster(ctx, req, conf)
}

// planAdd returns the plan of an ADD (behaviour D22, B39).
func (r *Resolver) planAdd(ctx context.Context, req *request.Request, conf *config.Plugin) (*Plan, error) {
	p := &planning{Resolver: r, req: req, conf: conf}
	if err := p.resolve(ctx); err != nil {
		return nil, err
	}
	return p.finish()
}

// resolve determines the attachments of an ADD, in their order, with their configurations, interfaces and routes.
func (p *planning) resolve(ctx context.Context) error {
	if err := p.conf.HasNetwork(); err != nil {
		return err
	}
	var err error
	if p.pod, err = p.Resolver.pod(ctx, p.req, p.conf); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{p.cluster, p.defaults, p.selected, p.auxiliary} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := p.checkConfigs(0); err != nil {
		return err
	}
	if err := p.nameInterfaces(); err != nil {
		return err
	}
	return p.defaultRoutes()
}

// planDelete returns what may be attached to a sandbox without a record: as much as can be resolved of what the pod
// requests now (behaviour D60, D64). For a pod that is gone, or that has been replaced by another one, the plan is
// empty. planDelete fails only if the pod cannot be looked up.
func (r *Resolver) planDelete(ctx context.Context, req *request.Request, conf *config.Plugin) (*Plan, error) {
	p := &planning{Resolver: r, req: req, conf: conf}
	var err error
	if p.pod, err = r.pod(ctx, req, conf); err != nil {
		if errors.Is(err, ErrUnavailable) {
			return nil, err
		}
		return p.finish()
	}
	for _, step := range []func(context.Context) error{p.cluster, p.defaults, p.selected} {
		known := len(p.out)
		if err := step(ctx); err != nil {
			r.Log.Warn("resolve for DEL without a record", "pod", req.Pod(), "container", req.ContainerID, "err", err)
			p.out = p.out[:max(known, min(1, len(p.out)))] // the cluster network is kept if it is known
			break
		}
	}
	if p.checkConfigs(0) != nil || p.nameInterfaces() != nil {
		p.out = nil // no ADD can have attached these
	}
	return p.finish()
}

// planCluster returns a plan of the cluster network alone, without a pod, for STATUS and GC (behaviour D92). For
// CHECK it includes the other inline delegates.
func (r *Resolver) planCluster(ctx context.Context, req *request.Request, conf *config.Plugin) (*Plan, error) {
	if err := conf.HasNetwork(); err != nil {
		return nil, err
	}
	p := &planning{Resolver: r, req: req, conf: conf}
	if err := p.cluster(ctx); err != nil {
		return nil, err
	}
	if req.Command != request.Check {
		p.out = p.out[:1]
	}
	if err := p.checkConfigs(0); err != nil {
		return nil, err
	}
	return p.finish()
}

// Plain reports whether a pod gets only the cluster network: its annotations are known and name neither networks nor a
// default network, and defaultNetworks does not apply to its namespace.
func Plain(req *request.Request, conf *config.Plugin) bool {
	annotations, known, err := conf.RuntimeAnnotations()
	if err != nil || !known {
		return false
	}
	_, replaced := annotations[netsel.DefaultNetwork]
	return annotations[netsel.Networks] == "" && !replaced &&
		!defaultNetworksApply(req.Args.Get(request.PodNamespace), conf)
}

// pod returns the pod with what it requests. Annotations that the runtime passed are preferred, because they are those
// of exactly this sandbox. Otherwise the pod is read from the source.
func (r *Resolver) pod(ctx context.Context, req *request.Request, conf *config.Plugin) (*Pod, error) {
	ref := Ref{Namespace: req.Args.Get(request.PodNamespace), Name: req.Args.Get(request.PodName)}
	uid := req.Args.Get(request.PodUID)
	annotations, known, err := conf.RuntimeAnnotations()
	if err != nil {
		return nil, err
	}
	if known {
		pod := &Pod{Ref: ref, UID: uid, Annotations: annotations}
		if pod.IsStatic() {
			pod.UID = "" // the mirror pod has another UID
		}
		return pod, nil
	}
	if r.Pods == nil {
		return nil, r.withoutPods(conf)
	}
	if ref.Name == "" || ref.Namespace == "" {
		return nil, fault.NoPodNamed.New(req.ContainerID, ref.Namespace, ref.Name)
	}
	pod, err := r.Pods.Pod(ctx, ref)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, fault.PodNotFound.Wrap(err, ref)
	case err != nil:
		return nil, fault.PodUnavailable.Wrap(err, ref)
	}
	if uid != "" && pod.UID != uid && !pod.IsStatic() {
		return nil, fault.PodReplaced.New(uid, pod.UID)
	}
	return pod, nil
}

// withoutPods returns the error for a pod whose requests cannot be looked up. Inline delegates alone need no lookup
// (behaviour D12). Anything else must not be guessed (behaviour A46).
func (r *Resolver) withoutPods(conf *config.Plugin) error {
	if conf.ClusterNetwork == "" {
		return nil
	}
	return fault.NoPodSource.New()
}

// IsStatic reports whether the pod is the mirror pod of a static pod, whose UID is not the sandbox's (behaviour C1,
// D18).
func (p *Pod) IsStatic() bool {
	source, ok := p.Annotations[netsel.ConfigSource]
	return ok && source != "api"
}

// cluster resolves the first attachment: clusterNetwork or the inline delegates (behaviour A18, A19), and then the
// pod's replacement for it (behaviour C52).
func (p *planning) cluster(ctx context.Context) error {
	if p.conf.ClusterNetwork == "" {
		return p.inline(ctx)
	}
	a, err := p.clusterReference(ctx, p.conf.ClusterNetwork)
	if err != nil {
		return unavailable(fault.ClusterNetworkUnavailable.Wrap(err, p.conf.ClusterNetwork, p.conf.MultusNamespace))
	}
	a.Origin, a.Primary = FromClusterNetwork, true
	if err := p.attach(a); err != nil {
		return err
	}
	return p.replaceDefault(ctx)
}

// inline adds the inline delegates of the configuration. A delegate without a name gets a name that is derived from the
// outer one (behaviour A36, A39; B5).
func (p *planning) inline(ctx context.Context) error {
	for i, raw := range p.conf.Delegates {
		l, err := cniconf.Parse(raw)
		var from Source
		if err == nil {
			name := p.conf.Name
			if i > 0 {
				name = fmt.Sprintf("%s-%d", p.conf.Name, i)
			}
			l, from, err = p.complete(l, Source{}, name)
		}
		if err != nil {
			return fault.DelegateInvalid.Wrap(err, i)
		}
		if err := p.attach(&Attachment{
			Name: l.Name(), Origin: FromDelegates, Primary: i == 0, Config: l,
			Source: from,
		}); err != nil {
			return err
		}
	}
	if p.pod == nil {
		return nil
	}
	return p.replaceDefault(ctx)
}

// clusterReference resolves a value of clusterNetwork or defaultNetworks: a path if it contains a slash, else a network
// definition in multusNamespace, else the file in confDir with the network's name (behaviour B30, B32).
func (p *planning) clusterReference(ctx context.Context, value string) (*Attachment, error) {
	if strings.Contains(value, "/") {
		l, file, err := cniconf.LoadPath(value)
		from := Source{File: file}
		if err == nil {
			l, from, err = p.complete(l, from, "")
		}
		if err != nil {
			return nil, err
		}
		return &Attachment{Name: l.Name(), Config: l, Source: from}, nil
	}
	ref := Ref{Namespace: p.conf.MultusNamespace, Name: value}
	var missing error
	if p.Networks != nil {
		def, err := p.lookUp(ctx, ref)
		if err == nil {
			return p.defined(ctx, ref, def)
		}
		missing = err
	}
	l, file, err := cniconf.LoadByName(p.conf.ConfDir, value)
	from := Source{File: file}
	if err == nil {
		l, from, err = p.complete(l, from, value)
	}
	if err != nil {
		p.reportMissing(missing) // reported only here: a file of that name makes the definition unnecessary
		return nil, errors.Join(missing, err)
	}
	return &Attachment{Name: l.Name(), Config: l, Source: from}, nil
}

// defined returns the attachment of a cluster-configured network with a network definition, with its device if it needs
// one (behaviour H1, H22).
func (p *planning) defined(ctx context.Context, ref Ref, def *Definition) (*Attachment, error) {
	l, from, err := p.definition(def)
	if err != nil {
		return nil, err
	}
	a := &Attachment{Name: ref.String(), Config: l, Source: from}
	if def.ResourceName != "" && p.pod != nil {
		err = p.assignDevice(ctx, a, def.ResourceName)
	}
	return a, err
}

// defaults adds defaultNetworks (behaviour A20, A21).
func (p *planning) defaults(ctx context.Context) error {
	if p.pod == nil || !defaultNetworksApply(p.pod.Namespace, p.conf) {
		return nil
	}
	for _, value := range p.conf.DefaultNetworks {
		a, err := p.clusterReference(ctx, value)
		if err != nil {
			return unavailable(fault.DefaultNetworkUnavailable.Wrap(err, value))
		}
		a.Origin = FromDefaultNetworks
		if err := p.attach(a); err != nil {
			return err
		}
	}
	return nil
}

func defaultNetworksApply(namespace string, conf *config.Plugin) bool {
	if conf.ClusterNetwork == "" || len(conf.DefaultNetworks) == 0 {
		return false
	}
	return !slices.Contains(conf.SystemNamespaces, namespace)
}

// selected adds the networks of the pod's annotation in their order.
func (p *planning) selected(ctx context.Context) error {
	if p.pod == nil {
		return nil
	}
	limit := p.conf.NetworkLimit()
	elements, err := netsel.ParseMax(p.pod.Annotations[netsel.Networks], limit-len(p.out))
	switch {
	case errors.Is(err, netsel.ErrTooMany) || len(p.out) > limit:
		return p.refuse(RuleLimit, FromAnnotation, -1, fault.TooManyNetworks.New(p.pod.Ref, limit))
	case err != nil:
		return p.badAnnotation(FromAnnotation, err)
	}
	p.annotation = elements
	for i := range elements {
		a, err := p.element(ctx, len(p.out), &elements[i], FromAnnotation, p.pod.Namespace)
		if err != nil {
			return err
		}
		if err := p.attach(a); err != nil {
			return err
		}
	}
	return nil
}

// maxShown is how much of an annotation an error contains.
const maxShown = 512

// replaceDefault replaces the cluster network by the one that the pod names (behaviour C50-C54). An empty value is
// an error (behaviour C51). The empty list [] replaces nothing.
func (p *planning) replaceDefault(ctx context.Context) error {
	if p.pod == nil {
		return nil
	}
	value, ok := p.pod.Annotations[netsel.DefaultNetwork]
	if !ok {
		return nil
	}
	elements, err := netsel.ParseMax(value, 1)
	switch {
	case errors.Is(err, netsel.ErrTooMany):
		return p.badAnnotation(FromDefaultAnnotation,
			fmt.Errorf("more than one default network is specified: %s", fault.Clip(value, maxShown)))
	case err != nil:
		return p.badAnnotation(FromDefaultAnnotation, err)
	case strings.TrimSpace(value) == "":
		return p.badAnnotation(FromDefaultAnnotation, errors.New("it is empty: name one network, or remove the annotation"))
	case len(elements) == 0:
		return nil
	}
	a, err := p.element(ctx, 0, &elements[0], FromDefaultAnnotation, p.conf.MultusNamespace)
	if err != nil {
		return err
	}
	a.Primary = true
	p.out[0] = *a
	return nil
}

// badAnnotation refuses an annotation that cannot be read. Its key is the second word of origin.
func (p *planning) badAnnotation(origin Origin, err error) error {
	_, key, _ := strings.Cut(string(origin), " ")
	return p.refuse(RuleAnnotation, origin, -1, fault.AnnotationInvalid.Wrap(err, key, p.pod.Ref))
}

// element resolves one selection element of the pod, which is attachment i. Every reference of a pod goes through this
// function, so this is the one place where isolation is checked (behaviour C40, C42).
func (p *planning) element(ctx context.Context, i int, e *netsel.Element, origin Origin,
	namespace string,
) (*Attachment, error) {
	ref := Ref{Namespace: e.Namespace, Name: e.Name}
	if ref.Namespace == "" {
		ref.Namespace = namespace
	}
	a := &Attachment{Name: ref.String(), Origin: origin, Request: e}
	if err := p.refuse(RuleIsolation, origin, i, p.isolated(ref, origin)); err != nil {
		return nil, err
	}
	def, err := p.lookUp(ctx, ref)
	if err != nil {
		p.reportMissing(err)
		rule := RuleMissing
		if ref.Name == "" || strings.Contains(ref.Name, "/") {
			rule = RuleAnnotation
		}
		missing := fault.DefinitionMissing.Wrap(err, p.pod.Ref, origin, origin)
		if mayPass(err) {
			missing = fault.DefinitionUnavailable.Wrap(err, p.pod.Ref, origin)
		}
		return a, p.refuse(rule, origin, i, missing)
	}
	return p.configured(ctx, a, i, def)
}

// configured sets the configuration of attachment i, which an element of the pod requests, from its definition.
func (p *planning) configured(ctx context.Context, a *Attachment, i int, def *Definition) (*Attachment, error) {
	ref, e, origin := def.Ref, a.Request, a.Origin
	l, from, err := p.definition(def)
	if err == nil {
		if err := p.reserve(l.Size() + l.Len()*argsSize(e)); err != nil {
			return a, p.refuse(RuleLimit, origin, i, err)
		}
		l, err = l.WithCNIArgs(e.CNIArgs)
	}
	if err != nil {
		return a, p.refuse(RuleConfig, origin, i, fault.DefinitionInvalid.Wrap(err, ref, p.pod.Ref))
	}
	a.Config, a.Source = l, from
	if err := p.refuse(RuleAllowed, origin, i, p.allowed(ref, a)); err != nil {
		return nil, err
	}
	switch {
	case e.ResourceClaim != nil:
		err = p.refuse(RuleDevice, origin, i, p.claimedDevice(ctx, a, e.ResourceClaim))
	case def.ResourceName != "":
		err = p.refuse(RuleDevice, origin, i, p.assignDevice(ctx, a, def.ResourceName))
	}
	return a, err
}

func (p *planning) lookUp(ctx context.Context, ref Ref) (*Definition, error) {
	var err error
	switch {
	case ref.Name == "":
		err = errors.New("resource name may not be empty")
	case strings.Contains(ref.Name, "/"):
		namespace, name, _ := strings.Cut(ref.Name, "/")
		err = fmt.Errorf("the name has a slash; in JSON write \"namespace\": %.64q, \"name\": %.64q", namespace, name)
	case p.Networks == nil:
		err = fmt.Errorf("%w: no Kubernetes and no networksDir is configured", ErrUnavailable)
	default:
		var def *Definition
		if def, err = p.Networks.Network(ctx, ref); err == nil {
			return def, nil
		}
	}
	return nil, &MissingNetworkError{Ref: ref, Err: err}
}

// reportMissing passes a network definition that cannot be obtained to Missing (behaviour B8).
func (p *planning) reportMissing(err error) {
	missing, ok := errors.AsType[*MissingNetworkError](err)
	if ok && p.Missing != nil && p.pod != nil {
		p.Missing(p.req.ContainerID, p.pod, missing)
	}
}

// unavailable returns an error with the code TryAgain if its cause may pass.
func unavailable(e *fault.Error) *fault.Error {
	if mayPass(e.Err) {
		e.Code = fault.TryAgain
	}
	return e
}

// mayPass reports whether a source may have the object later.
func mayPass(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// definition returns the configuration of a network definition: spec.config or, if that is empty, a file in confDir
// (behaviour B1-B3).
func (p *planning) definition(def *Definition) (l *cniconf.List, from Source, err error) {
	if known, ok := p.parsed[def.Ref]; ok && def.Config == known.config {
		return known.list, known.from, nil
	}
	switch size := len(def.Config); {
	case size > MaxConfigBytes:
		err = fmt.Errorf("spec.config has %d bytes, at most %d are accepted", size, MaxConfigBytes)
	case size == 0:
		l, from.File, err = cniconf.LoadByName(p.conf.ConfDir, def.Name)
	default:
		l, err = cniconf.Parse([]byte(def.Config))
	}
	if err != nil {
		return nil, from, err
	}
	from.Definition = def.Ref
	if l, from, err = p.complete(l, from, def.Name); err == nil {
		if p.parsed == nil {
			p.parsed = map[Ref]parsed{}
		}
		p.parsed[def.Ref] = parsed{def.Config, l, from}
	}
	return l, from, err
}

// parsed is a network definition that the pod references. It is parsed once, however often the pod references it.
type parsed struct {
	config string
	list   *cniconf.List
	from   Source
}

// complete sets the name and the version that a configuration omits, and records which ones it omits. It refuses a list
// with too many plugins.
func (p *planning) complete(l *cniconf.List, from Source, name string) (*cniconf.List, Source, error) {
	if err := cniconf.CheckPlugins(l); err != nil {
		return nil, from, err
	}
	from.Ambiguous, from.Unnamed, from.Unversioned = l.Ambiguous(), l.Name() == "", l.Version() == ""
	l, err := l.WithDefaults(name, p.conf.CNIVersion)
	return l, from, err
}

// isolated returns an error for a reference of a pod to a namespace that the pod may not use (behaviour C40, C41).
// References of the configuration are made by the administrator and are not limited.
func (p *planning) isolated(ref Ref, origin Origin) error {
	if !p.conf.NamespaceIsolation || ref.Namespace == p.pod.Namespace {
		return nil
	}
	if slices.Contains(p.conf.Exceptions(), ref.Namespace) {
		return nil
	}
	return fault.NamespaceIsolated.New(p.pod.Namespace, ref.Namespace, origin, ref.Name)
}

// auxiliary appends the auxiliary chain: passthru and the plugins of a directory beside the cluster network's file
// (behaviour B40-B42). As in today's Multus, a chain that cannot be loaded is logged and left out. A chain with too
// many plugins could be loaded, so it is an error.
func (p *planning) auxiliary(context.Context) error {
	name := p.conf.AuxiliaryChain
	if name == "" || p.conf.ClusterNetwork == "" {
		return nil
	}
	if !strings.Contains(p.conf.ClusterNetwork, "/") {
		return fault.AuxiliaryChainWithoutPath.New(p.conf.ClusterNetwork)
	}
	dir := path.Join(path.Dir(p.conf.ClusterNetwork), name)
	more, err := cniconf.PluginFiles(dir)
	var l *cniconf.List
	if err == nil && len(more) > 0 {
		l, err = chain(name, p.conf.CNIVersion, more)
	}
	if _, tooMany := errors.AsType[cniconf.TooManyPluginsError](err); tooMany {
		return fault.AuxiliaryChainTooLong.Wrap(err, name)
	}
	if err != nil {
		p.Log.Error("auxiliary chain left out", "container", p.req.ContainerID, "chain", name, "dir", dir, "err", err)
		return nil
	}
	if l != nil {
		return p.attach(&Attachment{
			Name: name, Origin: FromAuxiliaryChain, Config: l,
			Source: Source{File: dir, Ambiguous: l.Ambiguous()},
		})
	}
	return nil
}

func chain(name, version string, more [][]byte) (*cniconf.List, error) {
	if err := utils.ValidateNetworkName(name); err != nil {
		return nil, fmt.Errorf("invalid network config name: %q", name)
	}
	head, err := json.Marshal(map[string]any{
		"name": name, "cniVersion": version,
		"plugins": []any{map[string]any{"type": "passthru", "name": "passthru-cni"}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode chain: %w", err)
	}
	l, err := cniconf.ParseWith(head, more)
	if err != nil {
		return nil, err
	}
	return l, cniconf.CheckPlugins(l)
}
