package planserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/utils"

	"multus/internal/agent/hotplug"
	"multus/internal/cniconf"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
	"multus/internal/netsel"
	wirev1 "multus/wire/v1"
)

const (
	// pathDelegate is the path at which today's daemon attaches and deletes single networks of running pods.
	pathDelegate = "/delegate"
	// maxDelegate limits the size of its requests: one configuration in base64, arguments, and the environment.
	maxDelegate = 1 << 20
	// maxNetns limits the length of the path of a network namespace (PATH_MAX).
	maxNetns = 4096
	// defaultIfName is the interface of a request that names none (behaviour R20).
	defaultIfName = "eth0"
)

// delegateRequest is the body of POST /delegate, as multus-dynamic-networks-controller sends it (behaviour R20).
type delegateRequest struct {
	Env        map[string]string `json:"env"`
	Config     []byte            `json:"config"`
	Attributes json.RawMessage   `json:"interfaceAttributes"`
}

// delegateAnswer is the answer to an ADD.
type delegateAnswer struct {
	Result json.RawMessage `json:"Result"` //nolint:tagliatelle // the clients of today's Multus require it
}

// delegate serves /delegate: the runner executes the request, and the answer is that of today's daemon.
func (s *Server) delegate(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if s.hotPlug == nil {
		refusePath(w, r)
		return
	}
	var msg delegateRequest
	r.Body = http.MaxBytesReader(w, r.Body, maxDelegate)
	err := s.receive(r.Context(), w, r, &msg)
	var result json.RawMessage
	if err == nil {
		result, err = s.delegateOne(r.Context(), &msg)
	}
	limitAnswer(w)
	switch {
	case err != nil:
		s.refuseDelegate(w, msg.Env, err)
	case msg.Env[envCommand] == request.Add:
		answer(w, http.StatusOK, delegateAnswer{result})
	default:
		answer(w, http.StatusOK, nil)
	}
}

// delegateOne hands a request to the runner. STATUS succeeds without one, for a configuration that can be read: no
// sandbox is concerned, and an ADD fails if its plugins are not ready.
func (s *Server) delegateOne(ctx context.Context, msg *delegateRequest) (json.RawMessage, error) {
	d, args, err := msg.parse()
	if err != nil || d.Command == request.Status {
		return nil, err
	}
	if d.Command != request.Add {
		return s.hotPlug.Delegate(ctx, d)
	}
	if err := s.podExists(ctx, args); err != nil {
		return nil, err
	}
	result, err := s.hotPlug.Delegate(ctx, d)
	if err == nil && len(result) == 0 {
		err = errors.New("the runner sent no result") // the controller crashes without one
	}
	if err != nil {
		return nil, fmt.Errorf("error configuring pod [%s/%s] networking: %w", d.Pod.Namespace, d.Pod.Name, err)
	}
	return result, nil
}

// podExists returns an error at once for a pod that does not exist, instead of after a runner was started.
func (s *Server) podExists(ctx context.Context, args request.Args) error {
	ctx, cancel := context.WithTimeoutCause(ctx, PlanLimit, fmt.Errorf("it took longer than %s", PlanLimit))
	defer cancel()
	return s.resolver.CheckPod(ctx, args)
}

// delegated takes the results of delegations.
func (s *Server) delegated(results []wirev1.DelegateResult) {
	for _, r := range results {
		var failure error
		if r.Error != nil {
			failure = r.Error
		}
		if err := s.hotPlug.Delegated(r.ID, r.Result, failure); err != nil {
			s.log.Debug("result of a runner ignored", "request", fault.Clip(r.ID, fault.MaxName), "err", err)
		}
	}
}

// refuseDelegate answers with the text of today's daemon, and logs the error once.
func (s *Server) refuseDelegate(w http.ResponseWriter, env map[string]string, err error) {
	value := func(key string) string { return fault.Clip(env[key], fault.MaxName) }
	text := fault.Clip(fault.ToCNI(err).Error(), fault.MaxMessage)
	s.log.Error("request refused", "path", pathDelegate, "cmd", value(envCommand), "container", value(envContainer),
		"ifname", value(envIfName), "err", text)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	answerBytes(w, http.StatusBadRequest, fmt.Appendf(nil,
		"ContainerID:%q Netns:%q IfName:%q Args:%q Path:\"\" ERRORED: %s\n", value(envContainer), value(envNetns),
		value(envIfName), value(envArgs), text))
}

// The variables of the CNI environment that are read.
const (
	envCommand   = "CNI_COMMAND"
	envContainer = "CNI_CONTAINERID"
	envNetns     = "CNI_NETNS"
	envIfName    = "CNI_IFNAME"
	envArgs      = "CNI_ARGS"
)

// parse returns the request, and its CNI_ARGS. Everything in it is untrusted.
func (m *delegateRequest) parse() (*hotplug.Delegation, request.Args, error) {
	d := &hotplug.Delegation{ID: rand.Text(), Command: m.Env[envCommand], Netns: m.Env[envNetns]}
	switch d.Command {
	case request.Add, request.Del, request.Check, request.Status:
	case "":
		return nil, nil, errors.New("could not extract the CNI command args: unexpected or missing CNI_COMMAND")
	default:
		return nil, nil, fmt.Errorf("unknown cmd type: %s", fault.Clip(d.Command, fault.MaxName))
	}
	l, err := m.network()
	if err != nil || d.Command == request.Status {
		return d, nil, err
	}
	d.Network = l.Name()
	if err := m.sandbox(d); err != nil {
		return nil, nil, fmt.Errorf("could not extract the CNI command args: %w", err)
	}
	args, err := m.pod(d)
	if err != nil || d.Command != request.Add {
		return d, args, err
	}
	d.Wanted = &plan.Wanted{IfName: d.IfName, Config: m.Config}
	if len(m.Attributes) > 0 && string(m.Attributes) != "null" {
		elements, err := netsel.Parse("[" + string(m.Attributes) + "]")
		if err != nil {
			return nil, nil, fmt.Errorf("interfaceAttributes: %w", err)
		}
		d.Wanted.Attributes = elements[0]
	}
	return d, args, nil
}

// network returns the configuration, if it can be one of a network.
func (m *delegateRequest) network() (*cniconf.List, error) {
	if len(m.Config) > plan.MaxConfigBytes {
		return nil, fmt.Errorf("config has %d bytes, at most %d are accepted", len(m.Config), plan.MaxConfigBytes)
	}
	l, err := cniconf.Parse(m.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if name := l.Name(); name != "" {
		if err := utils.ValidateNetworkName(name); err != nil {
			return nil, fmt.Errorf("config: name %.253q: %s", name, err.Msg)
		}
	}
	return l, cniconf.CheckTypes(l.AllTypes())
}

// sandbox sets what names the sandbox and the interface.
func (m *delegateRequest) sandbox(d *hotplug.Delegation) error {
	for _, key := range []string{envContainer, envNetns, envArgs} {
		if _, ok := m.Env[key]; !ok {
			return fmt.Errorf("missing %s", key)
		}
	}
	d.ContainerID, d.IfName = m.Env[envContainer], defaultIfName
	if name, ok := m.Env[envIfName]; ok {
		d.IfName = name
	}
	if err := utils.ValidateContainerID(d.ContainerID); err != nil {
		return fmt.Errorf("%s %.64q: %w", envContainer, d.ContainerID, err)
	}
	if err := utils.ValidateInterfaceName(d.IfName); err != nil {
		return fmt.Errorf("%s %.64q: %w", envIfName, d.IfName, err)
	}
	if len(d.ContainerID) > fault.MaxName || len(d.Netns) > maxNetns {
		return fmt.Errorf("%s or %s is too long", envContainer, envNetns)
	}
	if d.Netns != "" && !filepath.IsAbs(d.Netns) {
		return fmt.Errorf("%s %.253q is not an absolute path", envNetns, d.Netns)
	}
	return nil
}

// pod sets the pod, and returns CNI_ARGS. Keys that are not known are ignored, as in today's daemon.
func (m *delegateRequest) pod(d *hotplug.Delegation) (request.Args, error) {
	args, err := request.ParseArgs(request.IgnoreUnknown + "=true;" + m.Env[envArgs])
	if err != nil {
		return nil, fmt.Errorf("could not extract the kubernetes runtime args: %w", err)
	}
	d.Pod = args.Pod()
	for _, value := range []string{d.Pod.Namespace, d.Pod.Name, d.Pod.UID} {
		if len(value) > fault.MaxName {
			return nil, fmt.Errorf("CNI_ARGS: a value has more than %d bytes", fault.MaxName)
		}
	}
	if d.Pod.Namespace == "" || d.Pod.Name == "" {
		return nil, fmt.Errorf("required CNI variable missing. pod name: %s; pod namespace: %s", d.Pod.Name,
			d.Pod.Namespace)
	}
	return args, nil
}
