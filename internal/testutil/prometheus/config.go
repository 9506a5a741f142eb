package prometheus

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Scrape is an element of scrape_configs.
type Scrape map[string]any

// Static returns a job with one target, which has these labels.
func Static(job, target string, labels map[string]string) Scrape {
	return Scrape{"job_name": job, "honor_labels": true, "static_configs": []any{
		map[string]any{"targets": []string{target}, "labels": labels},
	}}
}

// monitor is the specification of a PodMonitor, as far as PodMonitor supports it. It is decoded strictly.
type monitor struct {
	JobLabel  string               `json:"jobLabel"`
	Selector  metav1.LabelSelector `json:"selector"`
	Endpoints []endpoint           `json:"podMetricsEndpoints"`
}

type endpoint struct {
	Port string `json:"port"`
	// Interval is not used: Start scrapes once a second.
	Interval      string         `json:"interval"`
	HonorLabels   bool           `json:"honorLabels"`
	Scheme        string         `json:"scheme"`
	TLS           map[string]any `json:"tlsConfig"`
	Authorization *struct {
		Credentials struct {
			Name string `json:"name"`
			Key  string `json:"key"`
		} `json:"credentials"`
	} `json:"authorization"`
	Relabelings []struct {
		SourceLabels []string `json:"sourceLabels"`
		TargetLabel  string   `json:"targetLabel"`
	} `json:"relabelings"`
}

// PodMonitor returns the jobs that the Prometheus operator makes of a PodMonitor: pods that the API server lists, by
// labels and the name of a port. kubeconfig is a file where Prometheus runs. secret returns a value of a Secret in the
// namespace of the PodMonitor. A field that is not supported here is an error.
func PodMonitor(o *unstructured.Unstructured, kubeconfig string, secret func(name, key string) (string, error),
) (all []Scrape, err error) {
	b, err := yaml.Marshal(o.Object["spec"])
	if err != nil {
		return nil, fmt.Errorf("read PodMonitor %s: %w", o.GetName(), err)
	}
	var m monitor
	if err := yaml.UnmarshalStrict(b, &m); err != nil {
		return nil, fmt.Errorf("read PodMonitor %s: %w", o.GetName(), err)
	}
	for i := range m.Endpoints {
		e := &m.Endpoints[i]
		rules, err := m.relabel(e)
		if err != nil {
			return nil, fmt.Errorf("read PodMonitor %s: %w", o.GetName(), err)
		}
		s := Scrape{
			"job_name":     fmt.Sprintf("podMonitor/%s/%s/%d", o.GetNamespace(), o.GetName(), i),
			"honor_labels": e.HonorLabels, "relabel_configs": rules,
			"kubernetes_sd_configs": []any{map[string]any{
				"role": "pod", "kubeconfig_file": kubeconfig, "namespaces": map[string]any{"names": []string{o.GetNamespace()}},
			}},
		}
		if e.Scheme != "" {
			s["scheme"] = e.Scheme
		}
		if skip, ok := e.TLS["insecureSkipVerify"]; ok {
			s["tls_config"] = map[string]any{"insecure_skip_verify": skip}
		}
		if e.Authorization != nil {
			token, err := secret(e.Authorization.Credentials.Name, e.Authorization.Credentials.Key)
			if err != nil {
				return nil, fmt.Errorf("read token of PodMonitor %s: %w", o.GetName(), err)
			}
			s["authorization"] = map[string]string{"credentials": token}
		}
		all = append(all, s)
	}
	return all, nil
}

// relabel returns the rules by which an endpoint selects and labels its targets.
func (m *monitor) relabel(e *endpoint) (rules []any, err error) {
	const pod = "__meta_kubernetes_pod_"
	rule := func(action, regex, target string, source ...string) {
		r := map[string]any{"action": action, "source_labels": source}
		if regex != "" {
			r["regex"] = regex
		}
		if target != "" {
			r["target_label"] = target
		}
		rules = append(rules, r)
	}
	label := func(name string) string { return pod + "label_" + regexp.MustCompile(`\W`).ReplaceAllString(name, "_") }
	rule("drop", "(Failed|Succeeded)", "", pod+"phase")
	if len(m.Selector.MatchLabels) > 0 {
		return nil, errors.New("matchLabels are not supported here")
	}
	for _, s := range m.Selector.MatchExpressions {
		if s.Operator != metav1.LabelSelectorOpIn {
			return nil, fmt.Errorf("operator %s is not supported here", s.Operator)
		}
		rule("keep", "("+strings.Join(s.Values, "|")+")", "", label(s.Key))
	}
	rule("keep", e.Port, "", pod+"container_port_name")
	rule("replace", "", "namespace", "__meta_kubernetes_namespace")
	rule("replace", "", "container", pod+"container_name")
	rule("replace", "", "pod", pod+"name")
	rule("replace", "(.+)", "job", label(m.JobLabel))
	for _, r := range e.Relabelings {
		rule("replace", "", r.TargetLabel, r.SourceLabels...)
	}
	return rules, nil
}

// ranges matches the times in brackets of an expression.
var ranges = regexp.MustCompile(`\[[0-9]+[mh]\]`)

// Shorten returns the rules of a PrometheusRule with seconds in the place of its minutes and hours, and the names of
// the alerts. An alert without such a time is an error.
func Shorten(o *unstructured.Unstructured) (rules map[string]any, names []string, err error) {
	var spec struct {
		Groups []struct {
			Name  string           `json:"name"`
			Rules []map[string]any `json:"rules"`
		} `json:"groups"`
	}
	b, err := yaml.Marshal(o.Object["spec"])
	if err == nil {
		err = yaml.UnmarshalStrict(b, &spec)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read PrometheusRule %s: %w", o.GetName(), err)
	}
	for _, g := range spec.Groups {
		for _, r := range g.Rules {
			name, lasts := fmt.Sprint(r["alert"]), fmt.Sprint(r["for"])
			if !ranges.MatchString("[" + lasts + "]") {
				return nil, nil, fmt.Errorf("alert %s: for %s is not minutes or hours", name, lasts)
			}
			r["for"], r["expr"] = "1s", ranges.ReplaceAllString(fmt.Sprint(r["expr"]), "[10s]")
			names = append(names, name)
		}
	}
	return map[string]any{"groups": spec.Groups}, names, nil
}
