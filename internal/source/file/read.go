package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"multus/internal/fsx"
)

const (
	// maxFileSize limits the size of one file, and with it the memory of the daemon.
	maxFileSize = 16 << 20
	// settleTime is the age from which on the stamp of a change differs from that of the next change: the kernel's clock
	// for file times advances every few milliseconds.
	settleTime = 100 * time.Millisecond
)

// stamp identifies a version of a file. It includes the change time, because a program can set the modification time,
// and the inode, because an editor replaces the file.
type stamp struct {
	size         int64
	mtime, ctime time.Time
	inode        uint64
}

// decoded is the content of one file.
type decoded struct {
	path     string
	stamp    stamp
	settled  bool // reports whether the stamp was old enough when the file was read
	objects  []object
	problems []error
}

// read returns all decoded files, in the order of their names. It decodes only files that have changed.
func (s *Source) read() ([]*decoded, error) {
	paths, err := s.options.paths()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*decoded
	present := make(map[string]*decoded, len(paths))
	for _, path := range paths {
		f := s.refresh(path)
		if f != nil {
			list = append(list, f)
			present[path] = f
		}
	}
	s.files = present
	return list, nil
}

// paths returns the files to read now.
func (o Options) paths() ([]string, error) {
	if len(o.Files) > 0 {
		return o.Files, nil
	}
	entries, err := os.ReadDir(o.Dir) // sorted
	if err != nil {
		return nil, fmt.Errorf("read directory of definitions: %w; create it or correct its name in the configuration", err)
	}
	var paths []string
	for _, entry := range entries {
		if wanted(entry.Name()) {
			paths = append(paths, filepath.Join(o.Dir, entry.Name()))
		}
	}
	return paths, nil
}

// wanted reports whether a file is read. Hidden files are not: editors and WriteAtomic use such names for unfinished
// files.
func wanted(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// refresh returns the current version of a file, or nil if it is a directory or does not exist. A decoded file is never
// modified, because other goroutines may be reading it. The caller holds mu.
func (s *Source) refresh(path string) *decoded {
	if data, ok := s.options.Contents[path]; ok {
		f := &decoded{path: path}
		f.objects, f.problems = decode(path, data)
		return f
	}
	info, err := os.Stat(path) // follows the links of a mounted ConfigMap
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return nil
	}
	if err != nil {
		return &decoded{path: path, problems: []error{fmt.Errorf("read definitions: %w", err)}}
	}
	now := stampOf(info)
	if known := s.files[path]; known != nil && known.settled && known.stamp == now {
		return known
	}
	f := &decoded{
		path: path, stamp: now,
		settled: time.Since(now.mtime) > settleTime && time.Since(now.ctime) > settleTime,
	}
	data, err := fsx.ReadFile(path, maxFileSize)
	if errors.Is(err, fsx.ErrTooLarge) {
		err = fmt.Errorf("%w; split it", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		f.settled = false // the permission may change without a change of the file
		f.problems = []error{fmt.Errorf("read definitions: %w", err)}
		return f
	}
	f.objects, f.problems = decode(path, data)
	return f
}

func stampOf(info fs.FileInfo) stamp {
	st := stamp{size: info.Size(), mtime: info.ModTime()}
	st.inode, st.ctime = identity(info)
	return st
}
