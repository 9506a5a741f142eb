package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"multus/internal/fsx"
)

// The names of the plugins, as CNI configurations use them (behaviour Q1).
const (
	shim     = "multus-shim"
	thin     = "multus"
	passthru = "passthru"
)

// ReferenceDir is the subdirectory of the directory of our binaries that has the reference CNI plugins.
const ReferenceDir = "cni"

// ErrType is returned for an unknown deployment. The text is that of today's Multus (behaviour G30).
var ErrType = errors.New("--type is missing or --type has invalid value")

// Names returns the plugins of a deployment, which is thick, thin or all.
func Names(deployment string) ([]string, error) {
	switch deployment {
	case "thick":
		return []string{shim, passthru}, nil
	case "thin":
		return []string{thin, passthru}, nil
	case "all":
		return []string{shim, thin, passthru}, nil
	}
	return nil, fmt.Errorf("%w: %q, want thick, thin or all", ErrType, deployment)
}

// Options are the options of an installation.
type Options struct {
	// Source is the directory of the binaries. Dest is the CNI bin directory, which is created if it does not exist.
	Source string
	Dest   string
	// Names are the files to install. Existing ones are replaced.
	Names []string
	// Missing is a directory of plugins that are installed only if Dest has no file of that name, so that the plugins of a
	// distribution are never replaced. It may be empty.
	Missing string
	// Report is called for each file when it is in place. It may be nil.
	Report func(File)
}

// File is one file of an installation.
type File struct {
	Name string
	// From is the source of the file, whether or not it was copied.
	From string
	// State is what was done with the file.
	State State
}

// State is the state of a file after an installation.
type State string

// Copied is a file with new content, Equal is a file that already had the content, and Kept is another plugin of the
// same name, which was not replaced.
const (
	Copied State = "copied"
	Equal  State = "equal"
	Kept   State = "kept"
)

// FileError is the error of one file.
type FileError struct {
	File File
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("install %s: %v", e.File.Name, e.Err) }

func (e *FileError) Unwrap() error { return e.Err }

// Install installs the plugins into the CNI bin directory. After it returns without an error, the files survive a power
// loss. If it is killed, at any moment, each name still has the complete old or the complete new file, and the next
// Install removes the temporary files. Concurrent calls are safe.
func Install(ctx context.Context, o Options) error {
	files, err := o.files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dest, 0o755); err != nil {
		return fmt.Errorf("make CNI bin directory: %w", err)
	}
	dir, err := lockDir(ctx, o.Dest)
	if err != nil {
		return err
	}
	defer dir.close()
	age := inUse
	if dir.locked {
		age = noMinimumAge // no other installer runs, so that every temporary file is abandoned
	}
	// Abandoned files only take space: a failure to remove them does not stop the installation.
	swept := fsx.Sweep(o.Dest, age)
	for _, f := range files {
		if f.State == "" {
			if f.State, err = place(ctx, f.From, filepath.Join(o.Dest, f.Name)); err != nil {
				return errors.Join(&FileError{File: f, Err: err}, swept)
			}
		}
		if o.Report != nil {
			o.Report(f)
		}
	}
	// Sync even if all files were equal: an earlier installer may have been killed between its rename and its fsync.
	if err := dir.sync(); err != nil {
		return fmt.Errorf("sync CNI bin directory: %w", err)
	}
	return swept
}

// files returns the files to install. If a file of Names is missing, it fails before anything is changed: an image that
// does not match its manifest must not leave half of an installation.
func (o Options) files() ([]File, error) {
	var files []File
	for _, name := range o.Names {
		f := File{Name: name, From: filepath.Join(o.Source, name)}
		info, err := os.Stat(f.From)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", f.From)
		}
		if err != nil {
			return nil, &FileError{File: f, Err: err}
		}
		files = append(files, f)
	}
	if o.Missing == "" {
		return files, nil
	}
	entries, err := os.ReadDir(o.Missing)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; build them (make tools) or use the image", err)
	}
	if err != nil {
		return nil, fmt.Errorf("list reference plugins: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") || slices.Contains(o.Names, e.Name()) {
			continue
		}
		f := File{Name: e.Name(), From: filepath.Join(o.Missing, e.Name())}
		// A link counts as existing even if its target does not exist: in a container the target may not be visible, as that
		// of the plugins of k3s.
		_, err := os.Lstat(filepath.Join(o.Dest, e.Name()))
		switch {
		case err == nil:
			f.State = Kept
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("look for reference plugin: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}
