package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// newImage returns the image for one architecture from its binaries.
func newImage(o options, arch, dir string) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range []struct {
		what  string
		files func(string) ([]file, error)
	}{
		{"reference CNI plugins", pluginFiles},
		{"multus", ownFiles},
	} {
		files, err := l.files(dir)
		if err != nil {
			return nil, err
		}
		layer, err := newLayer(o, files)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer: layer, MediaType: types.OCILayer,
			History: v1.History{Created: v1.Time{Time: o.epoch}, CreatedBy: l.what},
		})
		if err != nil {
			return nil, fmt.Errorf("add layer: %w", err)
		}
	}
	conf, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read image configuration: %w", err)
	}
	conf = conf.DeepCopy()
	conf.Created = v1.Time{Time: o.epoch}
	conf.OS = "linux"
	conf.Architecture, conf.Variant = platform(arch)
	conf.Config = v1.Config{
		User:       "0:0",
		Entrypoint: []string{"/" + path.Join(binDir, "multus-daemon")},
		WorkingDir: "/",
		Labels:     labels(o),
	}
	return mutate.ConfigFile(img, conf)
}

func labels(o options) map[string]string {
	const prefix = "org.opencontainers.image."
	l := map[string]string{
		prefix + "title":       "multus",
		prefix + "description": "Attaches more than one network to a Kubernetes pod",
		prefix + "licenses":    "Apache-2.0",
		prefix + "version":     o.version,
	}
	if o.revision != "" {
		l[prefix+"revision"] = o.revision
	}
	if o.source != "" {
		l[prefix+"source"] = o.source
	}
	return l
}

func newLayer(o options, files []file) (v1.Layer, error) {
	var b bytes.Buffer
	if err := writeTar(&b, files, o.epoch); err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	layer, err := tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	return layer, nil
}

// writeArchive writes one image as an OCI layout together with the manifest.json of `docker save`, over the same blobs:
// `ctr images import` and `podman load` read the layout, every `docker load` reads the manifest.json. An archive has
// only one architecture, because Docker's format cannot contain more and a node needs only its own.
func writeArchive(to, ref string, img v1.Image) error {
	return writeTo(to, func(tw *tar.Writer) error { return writeLayout(tw, ref, img) })
}

// writeTo writes a tar archive, which gets its name when it is complete.
func writeTo(to string, write func(*tar.Writer) error) (retErr error) {
	temp := to + ".tmp"
	f, err := os.Create(temp)
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	defer func() {
		if retErr != nil {
			_ = f.Close()
			_ = os.Remove(temp)
		}
	}()
	tw := tar.NewWriter(f)
	if err := write(tw); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return os.Rename(temp, to)
}

func writeLayout(tw *tar.Writer, ref string, img v1.Image) error {
	index, err := indexOf(ref, img)
	if err != nil {
		return err
	}
	blobs, err := blobsOf(img)
	if err != nil {
		return err
	}
	docker := []tarball.Descriptor{{Config: blobs[1].name, RepoTags: []string{ref}}}
	for _, layer := range blobs[2:] {
		docker[0].Layers = append(docker[0].Layers, layer.name)
	}
	b, err := json.Marshal(docker)
	if err != nil {
		return err
	}
	entries := []entry{{"oci-layout", []byte(ociLayout)}, {"index.json", index}, {"manifest.json", b}}
	return writeEntries(tw, append(entries, blobs...))
}

func writeEntries(tw *tar.Writer, entries []entry) error {
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(len(e.body)), Mode: 0o644, Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(e.body); err != nil {
			return err
		}
	}
	return nil
}

// ociLayout is the content of the file oci-layout.
const ociLayout = `{"imageLayoutVersion":"1.0.0"}`

type entry struct {
	name string
	body []byte
}

func blob(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

func readLayer(l v1.Layer) ([]byte, error) {
	r, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // it was only read
	return io.ReadAll(r)
}

// indexOf returns an index with the image's name in two annotations: containerd reads its own, other programs that of
// the standard.
func indexOf(ref string, img v1.Image) ([]byte, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	size, err := img.Size()
	if err != nil {
		return nil, err
	}
	conf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	return json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1, Size: size, Digest: digest,
			Platform:    &v1.Platform{OS: conf.OS, Architecture: conf.Architecture, Variant: conf.Variant},
			Annotations: map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref},
		}},
	})
}

// describe returns a line about the written file.
func describe(file string, img v1.Image) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("  %s  %.1f MB  %s\n", path.Base(file), float64(info.Size())/1e6, digest), nil
}
