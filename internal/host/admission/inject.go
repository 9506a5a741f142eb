package admission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"multus/internal/admission/inject"
	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/source/kube"
)

// switchesEvery is the time between two reads of the ConfigMap nri-control-switches, as in network-resources-injector.
const switchesEvery = 30 * time.Second

// injector answers the requests to /mutate (behaviour T20).
type injector struct {
	client      *kube.Client
	definitions *kube.Cache
	options     inject.Options
	// switchesRef is the ConfigMap of network-resources-injector, and switches what it says.
	switchesRef plan.Ref
	switches    atomic.Pointer[inject.Switches]
	clock       clock.Clock
	log         *slog.Logger
}

// newInjector returns the injector of the configuration, or nil if nothing is to be injected.
func newInjector(conf *config.Daemon, plugin *config.Plugin, client *kube.Client, definitions *kube.Cache,
	namespace string, c clock.Clock, log *slog.Logger,
) *injector {
	in := &conf.Admission.Injection
	if in.Enabled != nil && !*in.Enabled {
		return nil
	}
	return &injector{
		client: client, definitions: definitions, clock: c, log: log,
		switchesRef: plan.Ref{Namespace: namespace, Name: inject.SwitchesName},
		options: inject.Options{
			ResourceNameKeys: in.ResourceNameKeys, HonorResources: in.HonorResources,
			NoPodInfo:       in.PodInfo != nil && !*in.PodInfo,
			UnknownNetwork:  inject.Ignore, // the validating webhook has the key unknownNetwork
			MultusNamespace: plugin.MultusNamespace, MaxNetworks: plugin.NetworkLimit(),
		},
	}
}

// annotations returns those of definitions that are read.
func (i *injector) annotations() []string {
	return slices.Concat(i.options.Keys(), []string{inject.NodeSelector})
}

// run reads the ConfigMap from time to time until ctx ends.
func (i *injector) run(ctx context.Context) error {
	last := ""
	for {
		if problems := i.readSwitches(ctx); problems != last {
			if last = problems; problems != "" {
				i.log.Warn("settings of network-resources-injector are left out", "problems", problems)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-i.clock.After(switchesEvery):
		}
	}
}

// readSwitches reads the ConfigMap, and returns what is wrong with it. If it cannot be read, what it said before
// applies.
func (i *injector) readSwitches(ctx context.Context) (problems string) {
	data, err := i.client.ConfigMap(ctx, i.switchesRef)
	switch {
	case errors.Is(err, plan.ErrNotFound):
		i.switches.Store(&inject.Switches{})
		return ""
	case err != nil:
		if ctx.Err() != nil {
			return ""
		}
		return err.Error()
	}
	s, found := inject.ParseSwitches(data)
	i.switches.Store(&s)
	return strings.Join(found, "; ")
}

// review returns the patch of a pod. An error is one of the API server: it then applies the failurePolicy.
func (i *injector) review(ctx context.Context, req *admissionv1.AdmissionRequest) (
	*admissionv1.AdmissionResponse, error,
) {
	out := &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true}
	if req.Resource.Group != "" || req.Resource.Resource != "pods" || req.SubResource != "" ||
		req.Operation != admissionv1.Create {
		return out, nil
	}
	o := i.options
	if s := i.switches.Load(); s != nil {
		o = o.With(*s)
	}
	var failed error
	exists := func(err error) bool {
		if err != nil && !errors.Is(err, plan.ErrNotFound) {
			failed = err
		}
		return err == nil
	}
	look := inject.Lookup{
		Definition: func(namespace, name string) (map[string]string, bool) {
			annotations, err := i.definitions.Annotations(ctx, plan.Ref{Namespace: namespace, Name: name})
			return annotations, exists(err)
		},
		DeviceClasses: func(namespace string, claim inject.Claim) []string {
			classes, err := i.client.DeviceClasses(ctx, namespace, claim.ResourceClaimName, claim.ResourceClaimTemplateName)
			exists(err)
			return classes
		},
		ExtendedResource: func(class string) string {
			name, err := i.client.ExtendedResource(ctx, class)
			exists(err)
			return name
		},
	}
	result, err := inject.Review(req.Object.Raw, req.Namespace, look, o)
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("inject into pod %s/%s: %w", req.Namespace, req.Name, err)
	}
	return respond(out, &result), nil
}

// respond fills the response with a result.
func respond(out *admissionv1.AdmissionResponse, r *inject.Result) *admissionv1.AdmissionResponse {
	out.Warnings = r.Warnings
	if r.Denied != "" {
		out.Allowed, out.Result = false, &metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
			Message: r.Denied,
		}
		return out
	}
	if len(r.Patch) > 0 {
		kind := admissionv1.PatchTypeJSONPatch
		out.Patch, out.PatchType = r.Patch, &kind
	}
	return out
}
