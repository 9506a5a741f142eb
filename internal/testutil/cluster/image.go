package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"multus/internal/testutil/module"
)

const (
	// PauseImage is the image of sandboxes.
	PauseImage = "localhost/cluster-pause:test"
	// WorkloadImage is the image of cluster/workload, which prints the interfaces of its pod and waits.
	WorkloadImage = "localhost/cluster-workload:test"
)

// importOwn builds the images of this package and imports them.
func (c *Cluster) importOwn(ctx context.Context) error {
	for ref, dir := range map[string]string{PauseImage: "pause", WorkloadImage: "workload"} {
		if c.first != nil {
			if err := c.Import(ctx, filepath.Join(c.first.dir, dir)+".tar"); err != nil {
				return err
			}
			continue
		}
		bin := filepath.Join(c.dir, dir)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin,
			"./internal/testutil/cluster/"+dir)
		cmd.Dir, cmd.Env = c.root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", dir, err, out)
		}
		archive := bin + ".tar"
		if err := writeImage(archive, ref, bin); err != nil {
			return err
		}
		if err := c.Import(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

// writeImage writes an image that contains one program, in the format of `docker save`.
func writeImage(archive, ref, bin string) error {
	body, err := os.ReadFile(bin)
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "main", Size: int64(len(body)),
		Mode: 0o755,
	}); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	if _, err := tw.Write(body); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return fmt.Errorf("make layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("add layer: %w", err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, RootFS: rootFS(img), Config: v1.Config{Entrypoint: []string{"/main"}},
	})
	if err != nil {
		return fmt.Errorf("configure image: %w", err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("parse %q: %w", ref, err)
	}
	if err := tarball.WriteToFile(archive, tag, img); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

func rootFS(img v1.Image) v1.RootFS {
	conf, err := img.ConfigFile()
	if err != nil {
		return v1.RootFS{}
	}
	return conf.RootFS
}

// MultusImage builds the image of Multus once, as `make image` does, and returns its archive.
var MultusImage = sync.OnceValues(func() (string, error) {
	root, err := module.Root()
	if err != nil {
		return "", err
	}
	out := filepath.Join(root, "bin", "image")
	cmd := exec.Command("go", "run", "./tools/image", "-arch", runtime.GOARCH, "-out", out, "-buildvcs=false", "-version",
		"test")
	cmd.Dir = root
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build image: %w\n%s", err, b)
	}
	return filepath.Join(out, "multus-test-linux-"+runtime.GOARCH+".tar"), nil
})

// Import imports an archive of images, as `ctr images import` does.
func (c *Cluster) Import(ctx context.Context, archive string) error {
	b, err := os.ReadFile(archive)
	if err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	const there = "/tmp/import.tar"
	if err := os.WriteFile(c.Path(there), b, 0o600); err != nil {
		return fmt.Errorf("copy archive: %w", err)
	}
	defer func() { _ = os.Remove(c.Path(there)) }()
	_, err = c.Ctr(ctx, "images", "import", there)
	return err
}

// Ctr runs containerd's client on the node, in the containerd namespace k8s.io.
func (c *Cluster) Ctr(ctx context.Context, args ...string) (string, error) {
	return c.Run(ctx, "ctr", append([]string{"-a", c.options.Paths.Run + "/containerd.sock", "-n", "k8s.io"}, args...)...)
}
