package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// manifestImage is the name of the image in the manifests.
const manifestImage = "localhost/multus"

// renderManifests writes what `kubectl apply -k` would apply for each overlay, with the image of this release.
func (r *release) renderManifests(context.Context) error {
	deploy := filepath.Join(r.src, "deploy")
	places := map[string]string{"base": filepath.Join(deploy, "base")}
	overlays, err := os.ReadDir(filepath.Join(deploy, "overlays"))
	if err != nil {
		return err
	}
	for _, o := range overlays {
		places[o.Name()] = filepath.Join(deploy, "overlays", o.Name())
	}
	for name, place := range places {
		rendered, err := r.render(name, place)
		if err != nil {
			return fmt.Errorf("render %s: %w", name, err)
		}
		if err := os.WriteFile(r.file("multus-"+r.version+"-"+name+".yaml"), rendered, 0o644); err != nil {
			return err
		}
	}
	return r.writeUninstall(filepath.Join(deploy, "uninstall", "job.yaml"))
}

// writeUninstall writes the Job of the uninstallation. Kustomize refuses it, because its name is generated.
func (r *release) writeUninstall(from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	const placeholder = "image: IMAGE\n"
	if !bytes.Contains(b, []byte(placeholder)) {
		return fmt.Errorf("%s has no %q", from, placeholder)
	}
	b = bytes.ReplaceAll(b, []byte(placeholder), []byte("image: "+r.imageRef()+"\n"))
	return os.WriteFile(r.file("multus-"+r.version+"-uninstall.yaml"), b, 0o644)
}

// render builds a kustomization that replaces the name of the image.
func (r *release) render(name, place string) ([]byte, error) {
	dir := filepath.Join(r.work, "manifests", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	from, err := filepath.Rel(dir, place)
	if err != nil {
		return nil, err
	}
	k, err := yaml.Marshal(types.Kustomization{
		Resources: []string{from},
		Images:    []types.Image{{Name: manifestImage, NewName: r.image, NewTag: r.version}},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), k, 0o644); err != nil {
		return nil, err
	}
	o := krusty.MakeDefaultOptions()
	o.LoadRestrictions = types.LoadRestrictionsNone // the files are outside of dir
	built, err := krusty.MakeKustomizer(o).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	return built.AsYaml()
}
