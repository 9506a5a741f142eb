package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"multus/internal/testutil/tool"
)

// TestRelease makes two releases of HEAD, compares them, and checks what is in them. It takes minutes, so it runs only
// with RELEASE=1.
func TestRelease(t *testing.T) {
	if os.Getenv("RELEASE") == "" {
		t.Skip("makes two releases, which takes minutes: RELEASE=1 go test -v -run TestRelease -timeout 60m ./tools/release")
	}
	helm := tool.Path(t, "helm")
	var outs []string
	for range 2 {
		out := filepath.Join(t.TempDir(), "release")
		var stdout bytes.Buffer
		err := run(t.Context(), []string{
			"-C", "../..", "-out", out, "-version", "v0.0.1-test.1", "-image", "registry.example/team/multus", "-source",
			"https://git.example/multus.git", "-helm", helm, "-sign", "printf signed >$(basename \"$0\").sig; true",
		}, "", &stdout)
		t.Logf("%s", &stdout)
		if err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out)
	}
	first, second := sums(t, outs[0]), sums(t, outs[1])
	if first != second {
		t.Errorf("two releases of one commit differ:\n%s\n%s", first, second)
	}
	if want := 1 + 6 + 14 + 1 + 6 + 1 + 1; strings.Count(first, "\n") != want {
		t.Errorf("%d files, want %d:\n%s", strings.Count(first, "\n"), want, first)
	}
	checkSums(t, outs[0])
	checkProgram(t, outs[0])
	checkImage(t, outs[0])
	checkManifests(t, outs[0], helm)
	checkProvenance(t, outs[0], first)
}

func sums(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, sumsName))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func checkSums(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sha256sum", "--check", "--quiet", sumsName)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// checkProgram runs the plugin of kubectl for this machine.
func checkProgram(t *testing.T, dir string) {
	t.Helper()
	name := "kubectl-multus-v0.0.1-test.1-linux-" + runtime.GOARCH + ".tar.gz"
	out := t.TempDir()
	extract := exec.CommandContext(t.Context(), "tar", "-xzf", filepath.Join(dir, name), "-C", out)
	if b, err := extract.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	b, err := exec.CommandContext(t.Context(), filepath.Join(out, "kubectl-multus"), "--version").Output()
	if err != nil || !strings.Contains(string(b), "version:v0.0.1-test.1(clean), commit:") {
		t.Errorf("%v %s", err, b)
	}
	if _, err := os.Stat(filepath.Join(out, "LICENSE")); err != nil {
		t.Error(err)
	}
}

// checkImage reads the image index, compares the programs of each architecture with its list of modules, and runs the
// daemon of this machine's architecture.
func checkImage(t *testing.T, dir string) {
	t.Helper()
	layoutDir := t.TempDir()
	archive := filepath.Join(dir, "multus-v0.0.1-test.1-image.tar")
	if b, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", layoutDir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	outer, err := layout.ImageIndexFromPath(layoutDir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	index, err := outer.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if m, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		arch := strings.ReplaceAll(strings.TrimPrefix(d.Platform.String(), "linux/"), "/", "-")
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		programs := programsOf(t, img)
		if n := checkBOM(t, filepath.Join(dir, "multus-v0.0.1-test.1-linux-"+arch+".cdx.json"), programs); n < 100 {
			t.Errorf("%s: %d modules were compared", arch, n)
		}
		if arch != runtime.GOARCH {
			continue
		}
		for _, program := range []string{"multus-daemon", "multusctl"} {
			b, err := exec.CommandContext(t.Context(), filepath.Join(programs, program), "--version").CombinedOutput()
			if err != nil || !strings.Contains(string(b), "version:v0.0.1-test.1(clean), commit:") {
				t.Errorf("%s: %v %s", program, err, b)
			}
		}
	}
}

// programsOf writes the programs of an image into a directory.
func programsOf(t *testing.T, img v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	r := mutate.Extract(img)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(h.Name, "usr/src/multus-cni/bin/")
		if !ok || h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), string(b))
	}
}

// checkManifests checks that manifests and chart have the image of the release, and the chart its annotations.
func checkManifests(t *testing.T, dir, helm string) {
	t.Helper()
	const image = "registry.example/team/multus:v0.0.1-test.1"
	for _, name := range []string{"base", "k3s", "thin", "uninstall"} {
		b, err := os.ReadFile(filepath.Join(dir, "multus-v0.0.1-test.1-"+name+".yaml"))
		if err != nil || !strings.Contains(string(b), "image: "+image) || strings.Contains(string(b), "localhost/multus") {
			t.Errorf("%s: %v\n%s", name, err, b)
		}
	}
	chart := filepath.Join(dir, "multus-0.0.1-test.1.tgz")
	rendered, err := exec.CommandContext(t.Context(), helm, "template", "multus", chart).Output()
	if err != nil || !strings.Contains(string(rendered), image) || strings.Contains(string(rendered), "localhost/multus") {
		t.Errorf("%v\n%s", err, rendered)
	}
	shown := member(t, chart, "multus/Chart.yaml")
	for _, want := range []string{
		"version: 0.0.1-test.1\n", "appVersion: v0.0.1-test.1\n", "artifacthub.io/changes:", "kind: added",
		"artifacthub.io/crds:", "artifacthub.io/images:", image, "artifacthub.io/license: Apache-2.0",
		`artifacthub.io/prerelease: "true"`,
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("Chart.yaml has no %q:\n%s", want, shown)
		}
	}
}

// member returns a file of a compressed archive.
func member(t *testing.T, archive, name string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("%s has no %s", archive, name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == name {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
}

// checkProvenance checks that the subjects are the image and every file but the checksums and the statement itself.
func checkProvenance(t *testing.T, dir, listed string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "multus-v0.0.1-test.1.intoto.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s statement
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range s.Subject {
		names = append(names, a.Name)
		if a.Name != "registry.example/team/multus" && !strings.Contains(listed, a.Digest["sha256"]+"  "+a.Name+"\n") {
			t.Errorf("%s has another digest than in %s", a.Name, sumsName)
		}
	}
	if len(names) != strings.Count(listed, "\n") || !slices.Contains(names, "multus.yaml") {
		t.Errorf("subjects %v", names)
	}
}
