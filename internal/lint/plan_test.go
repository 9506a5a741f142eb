package lint

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"multus/internal/config"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/source/file"
)

// planFile returns the errors of ADD for the pods of a file and, for each of its definitions, for a pod that requests
// it.
func planFile(t *testing.T, path string, o Options) error {
	t.Helper()
	dir := t.TempDir()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	src := file.New(file.Options{Dir: dir})
	log := slog.New(slog.DiscardHandler)
	conf := `{"cniVersion":"1.0.0","name":"m","type":"multus","delegates":[{"cniVersion":"1.0.0","name":"c","type":"bridge"}]`
	if o.Config.NamespaceIsolation {
		conf += `,"namespaceIsolation":true`
	}
	if len(o.Config.AllowedTypes) > 0 {
		conf += `,"allowedTypes":["` + strings.Join(o.Config.AllowedTypes, `","`) + `"]`
	}
	p, err := config.ParsePlugin([]byte(conf + "}"))
	if err != nil {
		t.Fatal(err)
	}
	var refused []error
	var defined plan.Networks = src
	if !o.Complete {
		defined = elsewhere{src}
	}
	one := func(pods plan.Pods, pod plan.Ref) {
		r := &plan.Resolver{Networks: defined, Pods: pods, Log: log}
		_, err := r.Plan(t.Context(), &request.Request{
			Command: request.Add, ContainerID: "c", Netns: "/run/netns/n", IfName: "eth0",
			Args:   request.Args{{request.PodNamespace, pod.Namespace}, {request.PodName, pod.Name}},
			Config: []byte(conf + "}"),
		}, p)
		refused = append(refused, err)
	}
	pods, err := src.Pods(t.Context())
	refused = append(refused, err)
	for _, pod := range pods {
		one(src, plan.Ref{Namespace: pod.Namespace, Name: pod.Name})
	}
	networks, err := src.Networks(t.Context())
	refused = append(refused, err)
	for _, n := range networks {
		one(&requesting{network: n.Ref}, plan.Ref{Namespace: n.Namespace, Name: "requests"})
	}
	return errors.Join(refused...)
}

// elsewhere returns a definition for every network, also for those that no file defines.
type elsewhere struct{ plan.Networks }

func (e elsewhere) Network(ctx context.Context, ref plan.Ref) (*plan.Definition, error) {
	def, err := e.Networks.Network(ctx, ref)
	if errors.Is(err, plan.ErrNotFound) {
		return &plan.Definition{Ref: ref, Config: `{"cniVersion":"1.0.0","type":"macvlan"}`}, nil
	}
	return def, err
}

// requesting has one pod in each namespace, which requests a network.
type requesting struct{ network plan.Ref }

func (r *requesting) Pod(_ context.Context, ref plan.Ref) (*plan.Pod, error) {
	return &plan.Pod{Ref: ref, UID: "u", Annotations: map[string]string{
		"k8s.v1.cni.cncf.io/networks": r.network.Namespace + "/" + r.network.Name,
	}}, nil
}

// beyondPlan has the rules for errors that only an executed plugin reports.
var beyondPlan = []string{
	"address", "bandwidth", "chain", "cni-version", "ipam", "ipam-range", "mac", "missing-key", "order", "overlap", "port",
	"type", "value",
}

// differs has the files of the corpus for which lint and ADD have different verdicts, with the reason.
var differs = map[string]string{
	"annotation-in-cronjob": "the template of a CronJob is not a pod yet",
	"bridge-name-long":      "only the plugin uses the name of the bridge",
	"config-empty":          "the configuration is in a file of the node, which lint does not see",
	"device-twice":          "the planner of this test has no devices",
	"json-duplicate-key":    "every decoder takes the last of two equal keys, so that ADD is not ambiguous",
	"kind-misspelt":         "the API server refuses the object",
	"master-slash":          "only the plugin uses the name of the master",
	"object-dotted-name":    "no annotation can name the definition, so that no pod requests it",
}

// TestAgreesWithPlan checks over the corpus that lint reports an error for what ADD refuses, and that ADD refuses what
// lint reports as an error, unless only a plugin refuses it.
func TestAgreesWithPlan(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/corpus/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	agreed := 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		o := corpusOptions(data)
		byPlugin, byPlan := false, false
		for _, f := range Run([]File{{Name: path, Data: data}}, o) {
			plugin := slices.Contains(beyondPlan, f.Rule)
			byPlugin = byPlugin || f.Severity == Error && plugin
			byPlan = byPlan || f.Severity == Error && !plugin
		}
		refused := planFile(t, path, o)
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		switch why, known := differs[name], refused != nil && !byPlan && !byPlugin || byPlan && refused == nil; {
		case known && why == "":
			t.Errorf("%s: lint reports an error: %t; ADD: %v", name, byPlan, refused)
		case !known && why != "":
			t.Errorf("%s: lint and ADD agree; remove it from the list", name)
		case refused != nil:
			agreed++
		}
	}
	const least = 30
	if agreed < least {
		t.Errorf("%d files are refused by both, want at least %d", agreed, least)
	}
}
