package main

import (
	"archive/tar"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeIndex writes an OCI layout with one image index of all architectures, which is what a registry gets, and returns
// the digest of that index. Docker's format cannot contain more than one architecture: see writeArchive.
func writeIndex(to, ref string, images []v1.Image) (v1.Hash, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		conf, err := img.ConfigFile()
		if err != nil {
			return v1.Hash{}, fmt.Errorf("read image configuration: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			MediaType: types.OCIManifestSchema1,
			Platform:  &v1.Platform{OS: conf.OS, Architecture: conf.Architecture, Variant: conf.Variant},
		}})
	}
	digest, err := index.Digest()
	if err != nil {
		return v1.Hash{}, fmt.Errorf("hash image index: %w", err)
	}
	return digest, writeTo(to, func(tw *tar.Writer) error { return writeIndexLayout(tw, ref, index, images) })
}

func writeIndexLayout(tw *tar.Writer, ref string, index v1.ImageIndex, images []v1.Image) error {
	raw, err := index.RawManifest()
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	root, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIImageIndex, Size: int64(len(raw)), Digest: digest,
			Annotations: map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref},
		}},
	})
	if err != nil {
		return err
	}
	err = writeEntries(tw, []entry{
		{"oci-layout", []byte(ociLayout)}, {"index.json", root}, {blob(digest), raw},
	})
	if err != nil {
		return err
	}
	for _, img := range images {
		blobs, err := blobsOf(img)
		if err != nil {
			return err
		}
		if err := writeEntries(tw, blobs); err != nil {
			return err
		}
	}
	return nil
}

// blobsOf returns the manifest, the configuration and the layers of an image, in this order.
func blobsOf(img v1.Image) ([]entry, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	conf, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	confName, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	out := []entry{{blob(digest), manifest}, {blob(confName), conf}}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return nil, err
		}
		b, err := readLayer(l)
		if err != nil {
			return nil, err
		}
		out = append(out, entry{blob(h), b})
	}
	return out, nil
}
