package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeBOMs writes the list of the modules of each image.
func (r *release) writeBOMs(context.Context) error {
	for _, arch := range r.arches {
		bom, err := r.bom(arch, r.binaries(arch))
		if err != nil {
			return err
		}
		if err := writeBOM(r.file("multus-"+r.version+"-linux-"+dashed(arch)+".cdx.json"), bom); err != nil {
			return err
		}
	}
	return nil
}

func writeBOM(path string, bom *cdx.BOM) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

// bom lists the programs of an image and the modules that are linked into each, from their build information, which is
// what `go version -m` prints.
func (r *release) bom(arch, dir string) (*cdx.BOM, error) {
	image := cdx.Component{
		BOMRef: "image", Type: cdx.ComponentTypeContainer, Name: r.image, Version: r.version,
		Properties: &[]cdx.Property{{Name: "platform", Value: "linux/" + arch}},
	}
	c := &collection{modules: map[string]cdx.Component{}}
	var programs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		programs = append(programs, "program:"+filepath.ToSlash(name))
		return c.add(filepath.ToSlash(name), path)
	})
	if err != nil {
		return nil, err
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = serial(r.revision + r.version + arch)
	bom.Metadata = &cdx.Metadata{Timestamp: r.time.Format("2006-01-02T15:04:05Z"), Component: &image}
	components := c.programs
	for _, ref := range slices.Sorted(keys(c.modules)) {
		components = append(components, c.modules[ref])
	}
	bom.Components = &components
	deps := append([]cdx.Dependency{{Ref: image.BOMRef, Dependencies: &programs}}, c.dependencies...)
	bom.Dependencies = &deps
	return bom, nil
}

// serial returns a UUID of version 8 that depends on the text only.
func serial(text string) string {
	h := sha256.Sum256([]byte(text))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

func keys(m map[string]cdx.Component) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// collection has the programs of an image, in the order of their names, and their modules.
type collection struct {
	programs     []cdx.Component
	modules      map[string]cdx.Component
	dependencies []cdx.Dependency
}

// add adds one program.
func (c *collection) add(name, path string) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the modules of %s: %w", name, err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	p := cdx.Component{
		BOMRef: "program:" + name, Type: cdx.ComponentTypeApplication, Name: name, Version: info.Main.Version,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: fmt.Sprintf("%x", sha256.Sum256(content))}},
	}
	var refs []string
	for _, m := range modulesOf(info) {
		ref := "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")
		c.modules[ref] = cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: ref,
		}
		refs = append(refs, ref)
	}
	c.programs = append(c.programs, p)
	c.dependencies = append(c.dependencies, cdx.Dependency{Ref: p.BOMRef, Dependencies: &refs})
	return nil
}

// modulesOf returns the modules of a program: its own, those that are linked, and the standard library, sorted. Of a
// module that is replaced it returns the replacement, which is what is linked.
func modulesOf(info *debug.BuildInfo) []debug.Module {
	out := []debug.Module{info.Main, {Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b debug.Module) int { return strings.Compare(a.Path, b.Path) })
	return slices.CompactFunc(out, func(a, b debug.Module) bool { return a.Path == b.Path })
}
