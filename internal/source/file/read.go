package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"multus/internal/fsx"
)

const (
	// maxFileSize bounds what one file can make a daemon hold.
	maxFileSize = 16 << 20
	// settleTime is how old a change has to be for the stamp to tell it from the next one: the kernel's clock
	// for file times ticks every few milliseconds.
	settleTime = 100 * time.Millisecond
)

// stamp tells whether a file may have changed. The change time is part of it because a tool can set the
// modification time, and the inode because an editor replaces the file.
type stamp struct {
	size         int64
	mtime, ctime time.Time
	inode        uint64
}

// decoded is the content of one file.
type decoded struct {
	path     string
	stamp    stamp
	settled  bool // the stamp was old enough when the file was read
	objects  []object
	problems []error
}

// read returns all files, decoded, in the order of their names. Only files that have changed are decoded again.
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

// paths are the files that are to be read now.
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

// wanted leaves out hidden files: editors and WriteAtomic keep unfinished ones under such names.
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

// refresh returns the file as it is now, nil when it is none or has gone; s.mu is held. A decoded file is never
// changed, because others may be reading it.
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
	f := &decoded{path: path, stamp: now, settled: time.Since(now.mtime) > settleTime &&
		time.Since(now.ctime) > settleTime}
	data, err := fsx.ReadFile(path, maxFileSize)
	if errors.Is(err, fsx.ErrTooLarge) {
		err = fmt.Errorf("%w; split it", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		f.settled = false // permission may come without a change of the file
		f.problems = []error{fmt.Errorf("read definitions: %w", err)}
		return f
	}
	f.objects, f.problems = decode(path, data)
	return f
}

func stampOf(info fs.FileInfo) stamp {
	st := stamp{size: info.Size(), mtime: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.inode = sys.Ino
		st.ctime = time.Unix(sys.Ctim.Unix())
	}
	return st
}
