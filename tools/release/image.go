package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// indexDigest finds the digest of the index in the output of tools/image.
var indexDigest = regexp.MustCompile(`-image\.tar  (sha256:[0-9a-f]{64})`)

// buildImage builds the image index of all architectures with the program of the commit.
func (r *release) buildImage(ctx context.Context) error {
	index := r.file("multus-" + r.version + "-image.tar")
	out, err := r.command(ctx, r.src, nil, "go", "run", "./tools/image", "-out", r.binaries(""), "-index", index,
		"-arch", strings.Join(r.arches, ","), "-image", r.imageRef(), "-version", r.version, "-revision", r.revision,
		"-source", r.source, "-buildvcs=true")
	if err != nil {
		return err
	}
	m := indexDigest.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("find the digest of the image in the output:\n%s", out)
	}
	r.digest = m[1]
	for _, arch := range r.arches {
		info, err := buildinfo.ReadFile(filepath.Join(r.binaries(arch), "multus-daemon"))
		if err != nil {
			return err
		}
		if info.Main.Version != r.version {
			return fmt.Errorf("multus-daemon for %s has the version %s, not %s: does git work here?", arch,
				info.Main.Version, r.version)
		}
	}
	return nil
}

// binaries returns the directory of the binaries of an architecture, or, for "", the parent of all of them.
func (r *release) binaries(arch string) string {
	if arch == "" {
		return filepath.Join(r.work, "image")
	}
	return filepath.Join(r.work, "image", "linux-"+dashed(arch))
}

// dashed returns an architecture as a part of file names.
func dashed(arch string) string { return strings.ReplaceAll(arch, "/", "-") }

// emulators are the programs of qemu-user for architectures that have another name there.
var emulators = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm/v7": "arm"}

// startPlugins starts the plugin of each architecture once. It skips those for which qemu-user is not installed.
func (r *release) startPlugins(ctx context.Context) error {
	for _, arch := range r.arches {
		name := "qemu-" + arch
		if other, ok := emulators[arch]; ok {
			name = "qemu-" + other
		}
		emulator, err := exec.LookPath(name)
		if errors.Is(err, exec.ErrNotFound) {
			emulator, err = exec.LookPath(name + "-static")
		}
		if err != nil {
			fmt.Fprintf(r.stdout, "  %s: not started, %s is not installed\n", arch, name)
			continue
		}
		out, err := r.command(ctx, r.work, []string{"CNI_COMMAND=VERSION"}, emulator,
			filepath.Join(r.binaries(arch), "multus-shim"))
		if err != nil {
			return fmt.Errorf("start multus-shim for %s: %w", arch, err)
		}
		var answer struct {
			SupportedVersions []string `json:"supportedVersions"`
		}
		if err := json.Unmarshal([]byte(out), &answer); err != nil || !slices.Contains(answer.SupportedVersions, "1.1.0") {
			return fmt.Errorf("multus-shim for %s answers VERSION with %q", arch, out)
		}
		fmt.Fprintf(r.stdout, "  %s: multus-shim answers VERSION, by %s\n", arch, name)
	}
	return nil
}
