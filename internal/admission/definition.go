package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/lint"
)

// maxNamed is the number of pods that a message about a definition in use names.
const maxNamed = 5

// object is the part of a definition that is read here.
type object struct {
	Metadata struct {
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Config string `json:"config"`
	} `json:"spec"`
}

// definition reviews a request about a network definition.
func (r *Reviewer) definition(ctx context.Context, req *admissionv1.AdmissionRequest) ([]finding, error) {
	ref := plan.Ref{Namespace: req.Namespace, Name: req.Name}
	var was, is object
	if req.Operation == admissionv1.Update || req.Operation == admissionv1.Delete {
		if err := json.Unmarshal(req.OldObject.Raw, &was); err != nil {
			return nil, fmt.Errorf("review network definition %s: decode old object: %w", ref, err)
		}
	}
	if req.Operation == admissionv1.Delete {
		return r.inUse(ctx, ref, "it is deleted", &was), nil
	}
	// A config that is not a string is a finding, and not an error.
	decoded := json.Unmarshal(req.Object.Raw, &is) == nil
	if decoded && req.Operation == admissionv1.Update && is.Spec.Config == was.Spec.Config {
		return nil, nil // what is stored can be labelled and annotated, valid or not
	}
	found, err := r.check(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("review network definition %s: %w", ref, err)
	}
	out := r.judge(found)
	if req.Operation == admissionv1.Update && !sameConfig(was.Spec.Config, is.Spec.Config) {
		out = append(out, r.inUse(ctx, ref, "spec.config changes", &was, &is)...)
	}
	return out, nil
}

// maxCompared limits the length of configurations that are compared. Longer ones count as different.
const maxCompared = 256 << 10

// sameConfig reports whether two configurations differ at most in white space and in the order of keys.
func sameConfig(a, b string) bool {
	if max(len(a), len(b)) > maxCompared {
		return false
	}
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

// inUse returns a finding if pods are attached to the definition, unless one of the versions of the definition permits
// the change, or the namespace is being deleted. If that is unknown, the change is permitted with a warning.
func (r *Reviewer) inUse(ctx context.Context, ref plan.Ref, change string, versions ...*object) []finding {
	if r.actions[RuleInUse] == config.AdmissionOff || r.attached == nil {
		return nil
	}
	for _, o := range versions {
		if o.Metadata.Annotations[AllowInUse] == "true" {
			return nil
		}
	}
	pods, total := r.attached.Users(ref, maxNamed)
	if total == 0 {
		return nil
	}
	terminating, err := r.namespaces.Terminating(ctx, ref.Namespace)
	if terminating {
		return nil
	}
	names := make([]string, 0, len(pods))
	for _, p := range pods {
		names = append(names, p.String())
	}
	who := strings.Join(names, ", ")
	if more := total - len(pods); more > 0 {
		who += fmt.Sprintf(" and %d more", more)
	}
	return []finding{{
		Finding: lint.Finding{
			Rule: RuleInUse, Severity: lint.Warning, Object: "NetworkAttachmentDefinition " + ref.String(),
			Message: fmt.Sprintf("%s while %s attached to it: %s; running pods keep the configuration with which they were "+
				"attached", change, counted(total), who),
			Fix: "delete the pods first, or set the annotation " + AllowInUse + `: "true" of the definition`,
		},
		deny: err == nil && r.actions[RuleInUse] == config.AdmissionDeny,
	}}
}

func counted(pods int) string {
	if pods == 1 {
		return "1 pod is"
	}
	return fmt.Sprintf("%d pods are", pods)
}
