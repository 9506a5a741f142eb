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

// The plugins, by the names that CNI configurations call them (behaviour.md Q1).
const (
	shim     = "multus-shim"
	thin     = "multus"
	passthru = "passthru"
)

// ReferenceDir is the directory of the reference CNI plugins inside that of our binaries.
const ReferenceDir = "cni"

// ErrType is returned for a deployment that does not exist; the text is today's (behaviour.md G30).
var ErrType = errors.New("--type is missing or --type has invalid value")

// Names returns the plugins of a deployment: thick, thin or all.
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

// Options of an installation.
type Options struct {
	// Source has the binaries, Dest is the CNI bin directory; it is made if it is missing.
	Source string
	Dest   string
	// Names are the files that are installed, new or over older ones.
	Names []string
	// Missing is a directory of plugins that are installed only where Dest has nothing of that name: what a
	// distribution ships is never replaced. Empty for none.
	Missing string
	// Report is told of each file when it is in place; nil for nobody.
	Report func(File)
}

// File is one file of an installation.
type File struct {
	Name string
	// From is the file that was, or would have been, copied.
	From string
	// State says what was done.
	State State
}

// State of a file after an installation.
type State string

// Copied is new content, Equal a file that had it already, Kept somebody else's plugin that was left alone.
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

// Install brings the plugins into the CNI bin directory. When it returns without an error they survive a power cut;
// when it is killed, at any instruction, each name holds the old file or the new one, whole, and the next Install
// removes what was left half-written. Several may run at a time.
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
		age = anyAge // nobody else is at work: every temporary file has lost its writer
	}
	// What is left over takes space and no more.
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
	// Also when all were equal: an installer before this one may have been killed between its rename and its fsync.
	if err := dir.sync(); err != nil {
		return fmt.Errorf("sync CNI bin directory: %w", err)
	}
	return swept
}

// files lists what is to be done. It fails before anything is touched if a file of Names is missing: an image and a
// manifest that do not fit must not leave half of an installation.
func (o Options) files() ([]File, error) {
	var files []File
	for _, name := range o.Names {
		f := File{Name: name, From: filepath.Join(o.Source, name)}
		info, err := os.Stat(f.From)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is no regular file", f.From)
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
		// A link counts as there, even if it leads nowhere: in a container its target may be out of sight, as that of
		// k3s' plugins is.
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
