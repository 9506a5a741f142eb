package main

import (
	"context"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

// krewPlugin is a manifest of krew.
type krewPlugin struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]string `json:"metadata"`
	Spec       krewSpec          `json:"spec"`
}

type krewSpec struct {
	Version          string         `json:"version"`
	Homepage         string         `json:"homepage,omitempty"`
	ShortDescription string         `json:"shortDescription"`
	Description      string         `json:"description"`
	Platforms        []krewPlatform `json:"platforms"`
}

type krewPlatform struct {
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	URI    string     `json:"uri"`
	SHA256 string     `json:"sha256"`
	Bin    string     `json:"bin"`
	Files  []krewFile `json:"files"`
}

type krewFile struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// writeKrew writes the manifest with which krew installs the plugin of kubectl.
func (r *release) writeKrew(context.Context) error {
	p := krewPlugin{
		APIVersion: "krew.googlecontainertools.github.com/v1alpha2", Kind: "Plugin",
		Metadata: map[string]string{"name": "multus"},
		Spec: krewSpec{
			Version: r.version, Homepage: r.source, ShortDescription: "Explain and check networks of pods with Multus",
			Description: "Shows what Multus would attach to a pod and why, checks network definitions before\n" +
				"they are applied, draws networks, and finds out what is wrong with a node.\n",
		},
	}
	from := ""
	if r.source == "" {
		fmt.Fprintln(r.stdout, "  without a source the manifest has names of files instead of URLs")
	} else {
		from = r.source + "/releases/download/" + r.version + "/"
	}
	for _, a := range r.plugins {
		platform := krewPlatform{
			URI: from + a.name, SHA256: a.sum, Bin: a.binary, Files: []krewFile{{a.binary, "."}, {"LICENSE", "."}},
		}
		platform.Selector.MatchLabels = map[string]string{"os": a.os, "arch": a.arch}
		p.Spec.Platforms = append(p.Spec.Platforms, platform)
	}
	b, err := yaml.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(r.file("multus.yaml"), b, 0o644)
}
