package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pluginArchive is an archive with the plugin of kubectl for one platform.
type pluginArchive struct {
	os, arch, name, binary string
	sum                    string // SHA-256 of the archive
}

// packed is one file of an archive.
type packed struct {
	name string
	mode int64
	body []byte
}

// buildPlugins builds the plugin of kubectl for laptops and nodes, and packs it with the licence.
func (r *release) buildPlugins(ctx context.Context) error {
	licence, err := os.ReadFile(filepath.Join(r.src, "LICENSE"))
	if err != nil {
		return err
	}
	for _, system := range []string{"darwin", "linux", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			a := pluginArchive{os: system, arch: arch, binary: "kubectl-multus"}
			ext := ".tar.gz"
			pack := packTar
			if system == "windows" {
				a.binary, ext, pack = "kubectl-multus.exe", ".zip", packZip
			}
			a.name = strings.Join([]string{"kubectl-multus", r.version, system, arch}, "-") + ext
			binary := filepath.Join(r.work, a.name+".bin")
			_, err := r.command(ctx, r.src, []string{"CGO_ENABLED=0", "GOOS=" + system, "GOARCH=" + arch}, "go", "build",
				"-mod=readonly", "-trimpath", "-buildvcs=true", "-gcflags=multus/...=-l", "-ldflags", "-s -w", // as make build
				"-o", binary, "./cmd/multusctl")
			if err != nil {
				return fmt.Errorf("build for %s/%s: %w", system, arch, err)
			}
			body, err := os.ReadFile(binary)
			if err != nil {
				return err
			}
			archive, err := pack([]packed{{"LICENSE", 0o644, licence}, {a.binary, 0o755, body}}, r.time)
			if err != nil {
				return fmt.Errorf("pack %s: %w", a.name, err)
			}
			if err := os.WriteFile(r.file(a.name), archive, 0o644); err != nil {
				return err
			}
			a.sum = sumOf(archive)
			r.plugins = append(r.plugins, a)
		}
	}
	return nil
}

func sumOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// packTar packs files with one owner and one time.
func packTar(files []packed, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	for _, f := range files {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.body)), ModTime: at, Format: tar.FormatUSTAR,
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := tw.Write(f.body); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	err := zw.Close()
	return b.Bytes(), err
}

// packZip is packTar for Windows.
func packZip(files []packed, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: at}
		h.SetMode(os.FileMode(f.mode))
		w, err := zw.CreateHeader(h)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	err := zw.Close()
	return b.Bytes(), err
}
