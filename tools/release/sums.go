package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// statement is an in-toto statement (v1) with SLSA's predicate of provenance (v1). It has no times of the build, and so
// two builds of a commit have the same one.
type statement struct {
	Type          string         `json:"_type"`
	Subject       []artifact     `json:"subject"`
	PredicateType string         `json:"predicateType"`
	Predicate     map[string]any `json:"predicate"`
}

// artifact is a thing with its digests.
type artifact struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// provenanceName returns the name of the statement.
func (r *release) provenanceName() string { return "multus-" + r.version + ".intoto.json" }

// writeSums writes the provenance of all files, and then the checksums of them and of the provenance.
func (r *release) writeSums(ctx context.Context) error {
	files, err := r.sumsOfFiles()
	if err != nil {
		return err
	}
	goVersion, err := r.command(ctx, r.src, nil, "go", "env", "GOVERSION")
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(r.provenance(files, goVersion), "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.file(r.provenanceName()), append(b, '\n'), 0o644); err != nil {
		return err
	}
	if files, err = r.sumsOfFiles(); err != nil {
		return err
	}
	var sums strings.Builder
	for _, f := range files {
		fmt.Fprintf(&sums, "%s  %s\n", f.Digest["sha256"], f.Name)
	}
	return os.WriteFile(r.file(sumsName), []byte(sums.String()), 0o644)
}

// sumsOfFiles returns the files of the release, sorted by name.
func (r *release) sumsOfFiles() ([]artifact, error) {
	entries, err := os.ReadDir(r.stage)
	if err != nil {
		return nil, err
	}
	var out []artifact
	for _, e := range entries {
		b, err := os.ReadFile(r.file(e.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, artifact{Name: e.Name(), Digest: map[string]string{"sha256": sumOf(b)}})
	}
	return out, nil
}

func (r *release) provenance(files []artifact, goVersion string) *statement {
	source := artifact{URI: "git+" + r.source, Digest: map[string]string{"gitCommit": r.revision}}
	if r.source == "" {
		source.URI = "urn:multus:source"
	}
	image := artifact{Name: r.image, Digest: map[string]string{"sha256": strings.TrimPrefix(r.digest, "sha256:")}}
	return &statement{
		Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1",
		Subject: append([]artifact{image}, files...),
		Predicate: map[string]any{
			"buildDefinition": map[string]any{
				"buildType": "urn:multus:make-release:v1",
				"externalParameters": map[string]any{
					"version": r.version, "image": r.image, "source": r.source, "architectures": r.arches,
					"sourceDateEpoch": r.epoch,
				},
				"resolvedDependencies": []artifact{source, {URI: "pkg:golang/toolchain@" + goVersion}},
			},
			"runDetails": map[string]any{"builder": map[string]string{"id": r.builder}},
		},
	}
}

// signFiles calls the command of the signature with the two files that cover all others.
func (r *release) signFiles(ctx context.Context) error {
	if r.sign == "" {
		fmt.Fprintf(r.stdout, "  not signed: set SIGN to a command, which is called with %s and %s\n", sumsName,
			r.provenanceName())
		return nil
	}
	for _, name := range []string{sumsName, r.provenanceName()} {
		if _, err := r.command(ctx, r.stage, nil, "sh", "-c", r.sign+` "$1"`, "sign", r.file(name)); err != nil {
			return err
		}
	}
	return nil
}
