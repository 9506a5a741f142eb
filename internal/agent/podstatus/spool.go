package podstatus

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"multus/internal/engine/publish"
	"multus/internal/fsx"
	wirev1 "multus/wire/v1"
)

const (
	// damaged is the suffix of a file that contains no report. At most maxDamaged such files are kept, for damagedAge.
	damaged    = ".damaged"
	damagedAge = 24 * time.Hour
	maxDamaged = 16
	// maxReport limits the size of one file, and maxSpool that of all files: the directory is in memory.
	maxReport = 4 << 20
	maxSpool  = 32 << 20
)

// spool is the directory of the reports that wait. It has no lock: Writer.disk is held during every call, except of
// sweep.
type spool struct {
	dir string
	log *slog.Logger
	// files has the files that were read or written, by name, so that no file is read twice. total is the sum of their
	// sizes.
	files map[string]file
	total int64
	// unread has the files that could not be read, so that each failure is logged once.
	unread map[string]bool
	// reading, if set, is called before a file is read. The read fails with its error. It is for tests.
	reading func(name string) error
}

// file describes a file of the spool.
type file struct {
	size int64
	// eventsWritten reports whether the file records that the events of its report are written.
	eventsWritten bool
	// obsolete is set if the file could not be removed although its report is no longer needed.
	obsolete bool
}

func newSpool(dir string, log *slog.Logger) *spool {
	return &spool{dir: dir, log: log, files: map[string]file{}, unread: map[string]bool{}}
}

// add records a file whose report is needed.
func (s *spool) add(name string, f file) {
	s.total += f.size - s.files[name].size
	s.files[name] = f
}

// remove removes a file. If that fails, each scan of the directory tries it again; the file is never read again.
func (s *spool) remove(name string) {
	s.add(name, file{obsolete: true})
	if err := fsx.Remove(filepath.Join(s.dir, name)); err != nil {
		s.log.Warn("cannot remove report that is not needed any more", "file", name, "err", err)
		return
	}
	delete(s.files, name)
}

// write writes a report to a file, and replaces the file if it exists.
func (s *spool) write(name string, r *publish.Report) error {
	b, err := json.Marshal(wirev1.FromReport(r))
	if err != nil {
		return err
	}
	if len(b) > maxReport {
		return fmt.Errorf("report has %d bytes, more than %d", len(b), maxReport)
	}
	if err := fsx.MakeDir(s.dir, 0o700); err != nil {
		return err
	}
	// Not synced: the sandbox does not survive a reboot. If the plugin leaves the report in a file too, that is the same
	// report.
	if err := fsx.Replace(filepath.Join(s.dir, name), b, 0o600); err != nil {
		return err
	}
	s.add(name, file{size: int64(len(b)), eventsWritten: r.EventsWritten})
	return nil
}

// errDamaged is returned for a file that contains no report.
var errDamaged = errors.New("no report")

// read returns the report of a file and the size of the file.
func (s *spool) read(name string) (*publish.Report, int64, error) {
	if s.reading != nil {
		if err := s.reading(name); err != nil {
			return nil, 0, err
		}
	}
	b, err := fsx.ReadRegular(s.dir, name, maxReport)
	if errors.Is(err, fsx.ErrTooLarge) || errors.Is(err, fsx.ErrNotRegular) {
		return nil, 0, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil {
		return nil, 0, err
	}
	var msg wirev1.Report
	if err := json.Unmarshal(b, &msg); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errDamaged, err)
	}
	r := msg.ToReport()
	if !r.HasStatus() { // plugins leave no other reports in files
		return nil, 0, fmt.Errorf("%w: it has no status", errDamaged)
	}
	return r, int64(len(b)), nil
}

// names returns the names of all files in the directory.
func (s *spool) names() (names []string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Error("cannot read waiting reports", "err", err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// open returns the report of a file that was not read yet, the name of the file from then on, and its size. The report
// is nil if the file has none, was read before, or cannot be read now.
func (s *spool) open(name string) (r *publish.Report, own string, size int64) {
	if filepath.Ext(name) != ".json" || strings.HasPrefix(name, ".") {
		return nil, "", 0
	}
	if f, known := s.files[name]; known {
		if f.obsolete {
			s.remove(name)
		}
		return nil, "", 0
	}
	r, name, size, err := s.readAndRename(name)
	path := filepath.Join(s.dir, name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, "", 0
	case errors.Is(err, errDamaged):
		s.log.Error("damaged report moved aside", "file", path, "err", errors.Join(err, setAside(path)))
		return nil, "", 0
	case err != nil:
		if !s.unread[name] && len(s.unread) < maxWaiting {
			s.unread[name] = true
			s.log.Error("cannot read report yet, trying again later", "file", path, "err", err)
		}
		return nil, "", 0
	}
	delete(s.unread, name)
	return r, name, size
}

// readAndRename reads the report of a file. It returns the report, the name of the file from then on, to which no other
// process writes, and its size.
//
// Earlier plugins and daemons use one file name for all reports of a pod, and may replace that file at any time.
// readAndRename therefore renames such a file before it reads it. What is later removed or set aside is the renamed
// file, and a new file with the old name is a separate one. If this process ends meanwhile, the next daemon reads the
// renamed file as any other.
func (s *spool) readAndRename(name string) (*publish.Report, string, int64, error) {
	if !publish.IsFileName(name) {
		own := publish.FileName(time.Now().UnixNano(), rand.Uint64())
		if err := os.Rename(filepath.Join(s.dir, name), filepath.Join(s.dir, own)); err != nil {
			return nil, name, 0, err
		}
		name = own
	}
	r, size, err := s.read(name)
	return r, name, size, err
}

// setAside renames a file without a report, so that an administrator can look at it. A file that is too large is
// removed.
func setAside(path string) error {
	if info, err := os.Lstat(path); err == nil && info.Size() > maxReport {
		return os.Remove(path)
	}
	return os.Rename(path, path+damaged)
}

// sweep removes the temporary files of processes that were killed, and the files without a report that are too old, or
// exceed maxDamaged.
func (s *spool) sweep() {
	if err := fsx.Sweep(s.dir, fsx.TempMaxAge); err != nil {
		s.log.Warn("cannot remove temporary files of killed processes", "err", err)
	}
	entries, _ := os.ReadDir(s.dir) // the scan that follows reports the error
	var kept []os.FileInfo
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), damaged) {
			continue
		}
		if info, err := e.Info(); err == nil {
			kept = append(kept, info)
		}
	}
	slices.SortFunc(kept, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, info := range kept {
		if i >= maxDamaged || time.Since(info.ModTime()) > damagedAge {
			_ = os.Remove(filepath.Join(s.dir, info.Name())) // if it fails, the next scan tries it again
		}
	}
}
