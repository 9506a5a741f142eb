package inject

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// SwitchesName is the name of the ConfigMap that network-resources-injector reads (behaviour T17).
	SwitchesName = "nri-control-switches"
	// switchesKey is the key of its data.
	switchesKey = "config.json"
)

// Switches are the settings of the ConfigMap nri-control-switches.
type Switches struct {
	// HonorResources overrides that of the options, if it is not nil.
	HonorResources *bool
	// Injections are annotations for pods, by label.
	Injections map[string]map[string]string
}

// ParseSwitches parses the data of the ConfigMap. What cannot be used is left out, with a problem that says why.
func ParseSwitches(data map[string]string) (s Switches, problems []string) {
	var conf struct {
		Features   json.RawMessage            `json:"features"`
		Injections map[string]json.RawMessage `json:"user-defined-injections"`
	}
	report := func(format string, args ...any) {
		problems = append(problems, "ConfigMap "+SwitchesName+": "+fmt.Sprintf(format, args...))
	}
	text, ok := data[switchesKey]
	if !ok {
		report("it has no key %s", switchesKey)
		return s, problems
	}
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		report("%s: %v", switchesKey, err)
		return s, problems
	}
	var features struct {
		Honor     *bool `json:"enableHonorExistingResources"`
		Hugepages bool  `json:"enableHugePageDownApi"`
	}
	if len(conf.Features) > 0 {
		if err := json.Unmarshal(conf.Features, &features); err != nil {
			report("features: %v", err)
			features.Honor = nil
		}
	}
	if features.Hugepages {
		report("enableHugePageDownApi is not supported: add the hugepages to a downward API volume of the pod")
	}
	s.HonorResources = features.Honor
	for _, label := range slices.Sorted(maps.Keys(conf.Injections)) {
		annotations, err := parseInjection(conf.Injections[label])
		if err != nil {
			report("user-defined-injections %q: %v", label, err)
			continue
		}
		if s.Injections == nil {
			s.Injections = map[string]map[string]string{}
		}
		s.Injections[label] = annotations
	}
	return s, problems
}

// parseInjection parses an operation of a JSON patch, which must add annotations.
func parseInjection(raw json.RawMessage) (map[string]string, error) {
	var op struct {
		Op    string            `json:"op"`
		Path  string            `json:"path"`
		Value map[string]string `json:"value"`
	}
	if err := json.Unmarshal(raw, &op); err != nil {
		return nil, fmt.Errorf("want a JSON patch operation whose value has strings: %w", err)
	}
	const annotations = "/metadata/annotations"
	if op.Op != "add" || op.Path != annotations {
		return nil, fmt.Errorf("op %q of path %q is not supported: only add of %s is", op.Op, op.Path, annotations)
	}
	for key := range op.Value {
		if p := validation.IsQualifiedName(strings.ToLower(key)); len(p) > 0 {
			return nil, fmt.Errorf("annotation %q: %s", key, p[0])
		}
	}
	return op.Value, nil
}

// With returns the options with the settings of the ConfigMap, which have priority.
func (o Options) With(s Switches) Options {
	if s.HonorResources != nil {
		o.HonorResources = *s.HonorResources
	}
	o.Injections = s.Injections
	return o
}
