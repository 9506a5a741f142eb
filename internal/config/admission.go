package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"multus/internal/fault"
)

// The values of keys in the section admission.
const (
	AdmissionDeny = "deny"
	AdmissionWarn = "warn"
	AdmissionOff  = "off"
)

// Admission is the section admission of the daemon's file, for `multus-daemon admission`.
type Admission struct {
	// Rules has an action for rules of lint, by their IDs.
	Rules map[string]string `json:"rules"`
	// UnknownNetwork is the action for pods with networks that do not exist, and InUse that for definitions that are
	// changed or deleted while pods use them. Both default to AdmissionWarn.
	UnknownNetwork string `json:"unknownNetwork"`
	InUse          string `json:"inUse"`
	// Injection are the settings of what pods get because of their networks.
	Injection Injection `json:"injection"`
	// CertManager reports whether cert-manager maintains the certificate and the webhook configurations.
	CertManager bool `json:"certManager"`
}

// Injection is the section admission.injection.
type Injection struct {
	// Enabled and PodInfo default to true. PodInfo adds the volume podnetinfo to pods that get devices.
	Enabled *bool `json:"enabled"`
	PodInfo *bool `json:"podInfo"`
	// ResourceNameKeys are the annotations of definitions with the name of a resource. None stands for
	// k8s.v1.cni.cncf.io/resourceName.
	ResourceNameKeys []string `json:"resourceNameKeys"`
	// HonorResources adds the devices of networks to existing requests.
	HonorResources bool `json:"honorResources"`
}

// Check returns an error for a value that does not exist.
func (a *Admission) Check() error {
	values := map[string]string{
		"unknownNetwork": cmp.Or(a.UnknownNetwork, AdmissionWarn), "inUse": cmp.Or(a.InUse, AdmissionWarn),
	}
	for id, action := range a.Rules {
		values["rules."+id] = action
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		switch values[key] {
		case AdmissionDeny, AdmissionWarn, AdmissionOff:
		default:
			return fmt.Errorf("admission.%s is %q, not %q, %q or %q; write one of these, or remove it", key,
				fault.Clip(values[key], fault.MaxValue), AdmissionDeny, AdmissionWarn, AdmissionOff)
		}
	}
	return nil
}
