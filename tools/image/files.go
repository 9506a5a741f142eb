package main

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// binDir is where today's image has its binaries (behaviour G60). Scripts and manifests refer to it.
const binDir = "usr/src/multus-cni/bin"

// links are programs of today's images that multus-daemon replaces if it is called by their name. tools are programs
// that manifests of other projects run in the image. multus-daemon supports the command lines of these manifests.
var (
	links = []string{"entrypoint.sh", "install_multus", "thin_entrypoint"}
	tools = []string{"bin/cat", "bin/cp", "bin/rm", "bin/sh"}
)

// file is one entry of the image. Its owner is root.
type file struct {
	name string // without a leading slash; the name of a directory ends with one
	from string // path of the content
	link string // or target of a symbolic link
}

// ownFiles returns the project's binaries and their links, pluginFiles the reference plugins. Each is a layer, because
// the plugins, which are larger, change seldom.
func ownFiles(dir string) ([]file, error) {
	files, err := binaries(dir, binDir)
	if err != nil {
		return nil, err
	}
	daemon := path.Join(binDir, "multus-daemon")
	if !slices.ContainsFunc(files, func(f file) bool { return f.name == daemon }) {
		return nil, fmt.Errorf("%s has no multus-daemon", dir)
	}
	for _, name := range links {
		// Symbolic, because the program looks for the others beside its real path.
		files = append(files, file{name: name, link: "/" + daemon},
			file{name: path.Join(binDir, name), link: "multus-daemon"})
	}
	for _, name := range tools {
		files = append(files, file{name: name, link: "/" + daemon})
	}
	return withParents(files), nil
}

func pluginFiles(dir string) ([]file, error) {
	files, err := binaries(filepath.Join(dir, referenceDir), path.Join(binDir, referenceDir))
	return withParents(files), err
}

func binaries(dir, to string) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list binaries: %w", err)
	}
	var files []file
	for _, e := range entries {
		if e.Type().IsRegular() {
			files = append(files, file{name: path.Join(to, e.Name()), from: filepath.Join(dir, e.Name())})
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no binaries", dir)
	}
	return files, nil
}

// withParents adds the parent directories and sorts, so that a directory comes before its content.
func withParents(files []file) []file {
	seen := map[string]bool{}
	for _, f := range files {
		for dir := path.Dir(f.name); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			files = append(files, file{name: dir + "/"})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files
}

// writeTar writes the files without anything that depends on the machine or the time.
func writeTar(w io.Writer, files []file, epoch time.Time) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o755, ModTime: epoch, Format: tar.FormatUSTAR}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		default:
			h.Typeflag = tar.TypeReg
		}
		if err := writeEntry(tw, h, f.from); err != nil {
			return fmt.Errorf("pack %s: %w", f.name, err)
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, h *tar.Header, from string) error {
	if from == "" {
		return tw.WriteHeader(h)
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// writeRootfs creates the same files in a directory, for a Dockerfile to copy.
func writeRootfs(root, dir string) error {
	own, err := ownFiles(dir)
	if err != nil {
		return err
	}
	plugins, err := pluginFiles(dir)
	if err != nil {
		return err
	}
	for _, f := range append(plugins, own...) {
		to := filepath.Join(root, filepath.FromSlash(f.name))
		switch {
		case strings.HasSuffix(f.name, "/"):
			err = os.MkdirAll(to, 0o755)
		case f.link != "":
			err = os.Symlink(f.link, to)
		default:
			err = move(f.from, to)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return nil
}

func move(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(from, to)
}
