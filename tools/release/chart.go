package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxChart limits the size of a file of the chart.
const maxChart = 16 << 20

// imageValues are the values of the image in values.yaml. The comments around them stay.
var imageValues = regexp.MustCompile(`(?m)^  registry: localhost\n  repository: multus\n  tag: latest$`)

// chartVersions are the lines of Chart.yaml with its two versions.
var chartVersions = regexp.MustCompile(`(?m)^version: .*\nappVersion: .*$`)

// packChart packs the chart with its version, the image, and the annotations of Artifact Hub.
func (r *release) packChart(ctx context.Context) error {
	dir := filepath.Join(r.work, "chart", "multus")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(r.src, "deploy", "chart", "multus"))); err != nil {
		return err
	}
	registry, repository, _ := strings.Cut(r.image, "/")
	err := edit(filepath.Join(dir, "values.yaml"), imageValues,
		fmt.Sprintf("  registry: %s\n  repository: %s\n  tag: %s", registry, repository, r.version))
	if err != nil {
		return err
	}
	annotations, err := r.chartAnnotations()
	if err != nil {
		return err
	}
	number := strings.TrimPrefix(r.version, "v")
	err = edit(filepath.Join(dir, "Chart.yaml"), chartVersions,
		fmt.Sprintf("version: %s\nappVersion: %s\n%s", number, r.version, strings.TrimSpace(string(annotations))))
	if err != nil {
		return err
	}
	if _, err := r.command(ctx, r.work, nil, r.helm, "package", dir, "--destination", r.work); err != nil {
		return err
	}
	name := "multus-" + number + ".tgz"
	archive, err := os.ReadFile(filepath.Join(r.work, name))
	if err != nil {
		return err
	}
	files, err := unpackTar(archive)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if archive, err = packTar(files, r.time); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return os.WriteFile(r.file(name), archive, 0o644)
}

// edit replaces the only match of a pattern in a file.
func edit(path string, pattern *regexp.Regexp, with string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := len(pattern.FindAll(b, -1)); n != 1 {
		return fmt.Errorf("edit %s: it has %d matches of %s, want one", filepath.Base(path), n, pattern)
	}
	return os.WriteFile(path, pattern.ReplaceAllLiteral(b, []byte(with)), 0o644)
}

// chartAnnotations returns the annotations of the chart. Those of Artifact Hub are YAML in strings.
func (r *release) chartAnnotations() ([]byte, error) {
	changes, err := r.changes()
	if err != nil {
		return nil, err
	}
	platforms := make([]string, len(r.arches))
	for i, arch := range r.arches {
		platforms[i] = "linux/" + arch
	}
	var errs []error
	text := func(v any) string {
		b, err := yaml.Marshal(v)
		errs = append(errs, err)
		return string(b)
	}
	annotations := map[string]string{
		"artifacthub.io/changes": text(changes),
		"artifacthub.io/crds": text([]map[string]string{{
			"kind": "NetworkAttachmentDefinition", "version": "v1",
			"name":        "network-attachment-definitions.k8s.cni.cncf.io",
			"displayName": "Network definition", "description": "A network to which pods can be attached",
		}}),
		"artifacthub.io/images": text([]map[string]any{
			{"name": "multus", "image": r.imageRef(), "platforms": platforms},
		}),
		"artifacthub.io/license":    "Apache-2.0",
		"artifacthub.io/prerelease": fmt.Sprint(strings.Contains(r.version, "-")),
	}
	b, err := yaml.Marshal(map[string]any{"annotations": annotations})
	return b, errors.Join(append(errs, err)...)
}

// unpackTar returns the files of a compressed archive, sorted by name.
func unpackTar(archive []byte) ([]packed, error) {
	zr, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	var files []packed
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			slices.SortFunc(files, func(a, b packed) int { return strings.Compare(a.name, b.name) })
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Size > maxChart {
			return nil, fmt.Errorf("%s has %d bytes, more than %d", h.Name, h.Size, maxChart)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		files = append(files, packed{h.Name, 0o644, body})
	}
}
