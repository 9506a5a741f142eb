package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// fakeBuild creates a directory as build does. The files have other times and modes at each call.
func fakeBuild(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"multus-shim", "multus-daemon", "multus", "passthru", "cni/bridge", "cni/macvlan"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("binary "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-time.Duration(len(dir)+len(name)) * time.Hour)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pack(t *testing.T, o options, dir string) string {
	t.Helper()
	img, err := newImage(o, "amd64", dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := writeArchive(path, o.image, img); err != nil {
		t.Fatal(err)
	}
	return path
}

func fileSum(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func testOptions(t *testing.T, args ...string) options {
	t.Helper()
	o, err := parse(append([]string{"-C", "../.."}, args...), "")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestArchive reads the archive as the programs read it and checks everything in the image (behaviour G60).
func TestArchive(t *testing.T) {
	t.Parallel()
	o := testOptions(t, "-version", "v1.2.3", "-source", "https://multus.example", "-revision", "abc")
	path := pack(t, o, fakeBuild(t))

	docker, err := tarball.ImageFromPath(path, nil) // docker load, podman load
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(docker); err != nil {
		t.Error(err)
	}
	oci := openLayout(t, path, o.image) // ctr images import
	if err := validate.Image(oci); err != nil {
		t.Error(err)
	}
	checkConfig(t, oci)
	want := []string{
		"bin",
		"bin/cat -> /usr/src/multus-cni/bin/multus-daemon",
		"bin/cp -> /usr/src/multus-cni/bin/multus-daemon",
		"bin/rm -> /usr/src/multus-cni/bin/multus-daemon",
		"bin/sh -> /usr/src/multus-cni/bin/multus-daemon",
		"entrypoint.sh -> /usr/src/multus-cni/bin/multus-daemon",
		"install_multus -> /usr/src/multus-cni/bin/multus-daemon",
		"thin_entrypoint -> /usr/src/multus-cni/bin/multus-daemon",
		"usr", "usr/src", "usr/src/multus-cni", "usr/src/multus-cni/bin",
		"usr/src/multus-cni/bin/cni",
		"usr/src/multus-cni/bin/cni/bridge",
		"usr/src/multus-cni/bin/cni/macvlan",
		"usr/src/multus-cni/bin/entrypoint.sh -> multus-daemon",
		"usr/src/multus-cni/bin/install_multus -> multus-daemon",
		"usr/src/multus-cni/bin/multus",
		"usr/src/multus-cni/bin/multus-daemon",
		"usr/src/multus-cni/bin/multus-shim",
		"usr/src/multus-cni/bin/passthru",
		"usr/src/multus-cni/bin/thin_entrypoint -> multus-daemon",
	}
	if got := contents(t, oci); !slices.Equal(got, want) {
		t.Errorf("image holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func checkConfig(t *testing.T, img v1.Image) {
	t.Helper()
	conf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := conf.Config.Entrypoint; !slices.Equal(got, []string{"/usr/src/multus-cni/bin/multus-daemon"}) {
		t.Errorf("entry point %q", got)
	}
	if conf.OS != "linux" || conf.Architecture != "amd64" || conf.Config.User != "0:0" ||
		!conf.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("configuration %+v", conf)
	}
	for key, want := range map[string]string{
		"version": "v1.2.3", "source": "https://multus.example", "revision": "abc",
		"licenses": "Apache-2.0",
	} {
		if got := conf.Config.Labels["org.opencontainers.image."+key]; got != want {
			t.Errorf("label %s is %q, want %q", key, got, want)
		}
	}
}

// unpack unpacks the archive into a directory.
func unpack(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, h.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openLayout opens the archive as an OCI layout.
func openLayout(t *testing.T, path, ref string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(unpack(t, path))
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	// If there is more than one, podman asks the user to choose.
	if len(m.Manifests) != 1 || m.Manifests[0].MediaType != types.OCIManifestSchema1 {
		t.Fatalf("index %+v", m.Manifests)
	}
	if got := m.Manifests[0].Annotations["io.containerd.image.name"]; got != ref {
		t.Errorf("containerd's name is %q, want %q", got, ref)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// contents returns the files of the image and checks that nothing depends on the machine.
func contents(t *testing.T, img v1.Image) []string {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	var names []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: uid %d, gid %d, owner %q, time %v", h.Name, h.Uid, h.Gid, h.Uname, h.ModTime)
		}
		name := h.Name
		if h.Typeflag == tar.TypeSymlink {
			name += " -> " + h.Linkname
		} else if h.FileInfo().Mode().Perm() != 0o755 {
			t.Errorf("%s: mode %v", h.Name, h.FileInfo().Mode())
		}
		if !slices.Contains(names, name) { // directories are in each layer
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestIndex reads the archive of several architectures as a registry gets it.
func TestIndex(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	var images []v1.Image
	for _, arch := range []string{"amd64", "arm/v7"} {
		img, err := newImage(o, arch, fakeBuild(t))
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	path := filepath.Join(t.TempDir(), "index.tar")
	digest, err := writeIndex(path, o.image, images)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := layout.ImageIndexFromPath(unpack(t, path))
	if err != nil {
		t.Fatal(err)
	}
	m, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 || m.Manifests[0].Digest != digest {
		t.Fatalf("%+v, want the digest %s", m.Manifests, digest)
	}
	inner, err := outer.ImageIndex(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(inner); err != nil {
		t.Error(err)
	}
	if m, err = inner.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range m.Manifests {
		platforms = append(platforms, d.Platform.String())
	}
	if got := strings.Join(platforms, " "); got != "linux/amd64 linux/arm/v7" {
		t.Errorf("platforms %s", got)
	}
	if m.Annotations != nil || m.Manifests[1].Platform.Variant != "v7" {
		t.Errorf("%+v", m)
	}
}

// TestOrder checks that no file comes before its directory. Otherwise the unpacking program would choose the mode of
// the directory.
func TestOrder(t *testing.T) {
	t.Parallel()
	dir := fakeBuild(t)
	for _, list := range []func(string) ([]file, error){ownFiles, pluginFiles} {
		files, err := list(dir)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{"./": true}
		for _, f := range files {
			if parent := path.Dir(strings.TrimSuffix(f.name, "/")) + "/"; !seen[parent] {
				t.Errorf("%s comes before %s", f.name, parent)
			}
			seen[f.name] = true
		}
	}
}

// TestReproducible checks that the archive depends only on the content of the files, and not on their time, place or
// owner.
func TestReproducible(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	a, b := pack(t, o, fakeBuild(t)), pack(t, o, fakeBuild(t))
	if fileSum(t, a) != fileSum(t, b) {
		t.Error("two archives of the same files differ")
	}
	o.version = "other"
	if fileSum(t, a) == fileSum(t, pack(t, o, fakeBuild(t))) {
		t.Error("the version is not in the archive")
	}
	later, err := parse(nil, "1700000000")
	if err != nil {
		t.Fatal(err)
	}
	if fileSum(t, a) == fileSum(t, pack(t, later, fakeBuild(t))) {
		t.Error("SOURCE_DATE_EPOCH is not in the archive")
	}
}

// TestReproducibleBuild builds everything twice, into different directories.
func TestReproducibleBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds everything twice")
	}
	var sums [][32]byte
	for range 2 {
		out := t.TempDir()
		var stdout bytes.Buffer
		args := []string{"-C", "../..", "-out", out, "-arch", "amd64", "-version", "v0", "-buildvcs=false"}
		if err := run(t.Context(), args, "", &stdout); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(out, "multus-v0-linux-amd64.tar")
		if !strings.Contains(stdout.String(), filepath.Base(path)) || !strings.Contains(stdout.String(), "sha256:") {
			t.Errorf("output: %s", &stdout)
		}
		sums = append(sums, fileSum(t, path))
		for _, name := range []string{"multus", "multus-daemon", "multus-shim", "passthru", "cni/macvlan"} {
			if _, err := os.Stat(filepath.Join(out, "linux-amd64", name)); err != nil {
				t.Error(err)
			}
		}
	}
	if sums[0] != sums[1] {
		t.Error("two builds differ")
	}
}

// TestRootfs checks that the directory for the Dockerfile has the same files.
func TestRootfs(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := writeRootfs(root, fakeBuild(t)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"install_multus": "/usr/src/multus-cni/bin/multus-daemon", "usr/src/multus-cni/bin/thin_entrypoint": "multus-daemon",
		"bin/sh": "/usr/src/multus-cni/bin/multus-daemon", "entrypoint.sh": "/usr/src/multus-cni/bin/multus-daemon",
	} {
		if got, err := os.Readlink(filepath.Join(root, name)); got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, binDir, "cni/bridge")); string(b) != "binary cni/bridge" {
		t.Errorf("bridge: %q, %v", b, err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	if _, err := parse([]string{"-rootfs", "x"}, ""); err == nil {
		t.Error("-rootfs with two architectures")
	}
	if _, err := parse(nil, "yesterday"); err == nil {
		t.Error("an epoch that is not a number")
	}
	if _, err := newImage(testOptions(t), "amd64", t.TempDir()); err == nil {
		t.Error("an image without binaries")
	}
}
