package podstatus

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"multus/internal/engine/publish"
	"multus/internal/failpoint"
	"multus/internal/fsx"
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

// spool is the directory of the reports that wait.
type spool struct {
	dir string
	// mu is held during all work on files, so that the file of a report is never written after the report was dropped. It
	// guards the fields below, and the fields of pending that say so.
	mu sync.Mutex
	// files has the names of the files that were read, so that no file is read twice. The value reports whether the report
	// is still needed. It is false for a file that could not be removed.
	files map[string]bool
	// sizes has the sizes of the files whose report is needed, and total is their sum.
	sizes map[string]int64
	total int64
	// reading, if set, is called before a file is read. The read fails with its error. It is for tests.
	reading func(name string) error
	// unread has the files that could not be read, so that each failure is logged once.
	unread map[string]bool
}

func newSpool(dir string) *spool {
	return &spool{dir: dir, files: map[string]bool{}, sizes: map[string]int64{}, unread: map[string]bool{}}
}

// tooLarge reports whether the files exceed their limit.
func (s *spool) tooLarge() bool { return s.total > maxSpool }

// add records that a file has a report that is needed.
func (s *spool) add(name string, size int64) {
	s.total += size - s.sizes[name]
	s.files[name], s.sizes[name] = true, size
}

// remove removes a file. If that fails, each scan of the directory tries it again; the file is never read again.
func (s *spool) remove(name string) error {
	s.total -= s.sizes[name]
	delete(s.sizes, name)
	if err := fsx.Remove(filepath.Join(s.dir, name)); err != nil {
		s.files[name] = false
		return err
	}
	delete(s.files, name)
	return nil
}

// errDamaged is returned for a file that contains no report.
var errDamaged = errors.New("no report")

// read returns the report of a file.
func (s *spool) read(name string) (*publish.Report, error) {
	if s.reading != nil {
		if err := s.reading(name); err != nil {
			return nil, err
		}
	}
	b, err := fsx.ReadRegular(s.dir, name, maxReport)
	if errors.Is(err, fsx.ErrTooLarge) || errors.Is(err, fsx.ErrNotRegular) {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	r := &publish.Report{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if !r.HasStatus() { // plugins leave no other reports in files
		return nil, fmt.Errorf("%w: it has no status", errDamaged)
	}
	return r, nil
}

// keep writes a report to its file, unless the file is up to date or the report is no longer needed.
func (q *Writer) keep(p *pending) {
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	q.keepLocked(p)
	q.limit()
}

// markEventsWritten records that the events of a report were written. The file of the report must record it, too, if
// the report may outlive this process. The statuses of most reports are written at once, so that they need no file.
func (q *Writer) markEventsWritten(p *pending) {
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	p.eventsWritten = true
	q.mu.Lock()
	failed := p.tries > 0
	q.mu.Unlock()
	if failed {
		q.keepLocked(p)
	}
}

// keepLocked is keep for a caller that holds spool.mu. After a failed attempt, it removes the report from memory once
// it is in its file.
func (q *Writer) keepLocked(p *pending) {
	q.mu.Lock()
	r, dropped, tried := p.report, p.dropped, p.tries > 0
	q.mu.Unlock()
	if dropped {
		return
	}
	if p.file == "" || p.eventsMarked != p.eventsWritten {
		if err := q.writeFile(p, r); err != nil {
			q.log.Error("cannot save report", "pod", PodName(p.pod), "container", p.container, "err", err)
			return
		}
		failpoint.At("daemon.spool.written")
	}
	if tried {
		q.mu.Lock()
		p.report = nil
		q.mu.Unlock()
	}
}

// writeFile writes the file of a report. If r is nil, it reads the report from that file first.
func (q *Writer) writeFile(p *pending, r *publish.Report) (err error) {
	if r == nil {
		if r, err = q.spool.read(p.file); err != nil {
			return err
		}
	}
	out := *r
	out.EventsWritten = p.eventsWritten
	b, err := json.Marshal(&out)
	if err != nil {
		return err
	}
	if len(b) > maxReport {
		return fmt.Errorf("report has %d bytes, more than %d", len(b), maxReport)
	}
	if err := fsx.MakeDir(q.spool.dir, 0o700); err != nil {
		return err
	}
	name := cmp.Or(p.file, p.id)
	// Not synced: the sandbox does not survive a reboot. If the plugin leaves the report in a file too, that is the same
	// report.
	if err := fsx.Replace(filepath.Join(q.spool.dir, name), b, 0o600); err != nil {
		return err
	}
	p.file, p.eventsMarked = name, out.EventsWritten
	q.spool.add(name, int64(len(b)))
	return nil
}

// discard removes the file of a report that is no longer needed. A file never contains another report than its first
// (publish.Report.File). The caller holds spool.mu.
func (q *Writer) discard(p *pending) {
	if p.file != "" {
		q.remove(p.file)
		p.file = ""
	}
}

func (q *Writer) remove(name string) {
	if err := q.spool.remove(name); err != nil {
		q.log.Warn("cannot remove report that is not needed any more", "file", name, "err", err)
	}
}

// scanAndQueue queues the reports that were left in files, and removes the temporary files of processes that were
// killed.
func (q *Writer) scanAndQueue() {
	if err := fsx.Sweep(q.spool.dir, fsx.TempMaxAge); err != nil {
		q.log.Warn("cannot remove temporary files of killed processes", "err", err)
	}
	q.spool.mu.Lock()
	waiting, entries := q.scan()
	q.spool.mu.Unlock()
	q.removeDamaged(entries)
	for _, p := range waiting {
		q.push(p)
	}
}

// removeDamaged removes the files without a report that are too old, or exceed maxDamaged.
func (q *Writer) removeDamaged(entries []os.DirEntry) {
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
			_ = os.Remove(filepath.Join(q.spool.dir, info.Name())) // if it fails, the next scan tries it again
		}
	}
}

// found is a report that was read from a file.
type found struct {
	pending *pending
	size    int64
}

// scan reads the files that were not read yet, registers their reports, and returns those that the caller has to push.
// Of several reports of one pod that are found together, the one with the latest time counts as the latest. The caller
// holds spool.mu.
func (q *Writer) scan() ([]*pending, []os.DirEntry) {
	entries, err := os.ReadDir(q.spool.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		q.log.Error("cannot read waiting reports", "err", err)
	}
	var all []found
	for _, e := range entries {
		if f := q.open(e.Name()); f != nil {
			all = append(all, *f)
			if f.size > smallReport || len(all) > maxInMemory {
				f.pending.report = nil // no other goroutine uses it yet
			}
		}
	}
	slices.SortStableFunc(all, func(a, b found) int { return cmp.Compare(a.pending.time, b.pending.time) })
	var waiting []*pending
	for _, f := range all {
		if p := q.adopt(f); p != nil {
			waiting = append(waiting, p)
		}
	}
	return waiting, entries
}

// scanFile reads one file and registers its report. It returns nil if there is no report to push: the file has none,
// the report is known already, or it is not needed.
func (q *Writer) scanFile(name string) *pending {
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	if f := q.open(name); f != nil {
		return q.adopt(*f)
	}
	return nil
}

// open reads a file that was not read yet. It returns nil if there is nothing to register. The caller holds spool.mu.
func (q *Writer) open(name string) *found {
	if filepath.Ext(name) != ".json" || strings.HasPrefix(name, ".") {
		return nil
	}
	if needed, known := q.spool.files[name]; known {
		if !needed {
			q.remove(name)
		}
		return nil
	}
	r, name, err := q.readAndRename(name)
	path := filepath.Join(q.spool.dir, name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged):
		q.log.Error("damaged report moved aside", "file", path, "err", errors.Join(err, q.setAside(path)))
		return nil
	case err != nil:
		if !q.spool.unread[name] && len(q.spool.unread) < maxWaiting {
			q.spool.unread[name] = true
			q.log.Error("cannot read report yet, trying again later", "file", path, "err", err)
		}
		return nil
	}
	delete(q.spool.unread, name)
	q.metrics.Observe(r)
	p := newPending(r)
	p.file = name
	var size int64
	if info, err := os.Stat(path); err == nil {
		size = info.Size()
	}
	return &found{p, size}
}

// setAside renames a file without a report, so that an administrator can look at it. A file that is too large is
// removed.
func (q *Writer) setAside(path string) error {
	if info, err := os.Lstat(path); err == nil && info.Size() > maxReport {
		return os.Remove(path)
	}
	return os.Rename(path, path+damaged)
}

// adopt registers a report that was read from a file. If the same report already waits, it gets this file if it has
// none; otherwise the file is removed. The caller holds spool.mu.
func (q *Writer) adopt(f found) *pending {
	p := f.pending
	q.spool.add(p.file, f.size)
	latest := q.register(p)
	q.mu.Lock()
	dropped := latest.dropped
	q.mu.Unlock()
	switch {
	case latest != p && latest.file == "": // the same report came over the socket
		latest.file, latest.eventsMarked = p.file, p.eventsMarked
		return nil
	case latest != p:
		q.remove(p.file)
		return nil
	case dropped:
		q.discard(p)
		return nil
	}
	return p
}

// readAndRename reads the report of a file. It returns the report and the name of the file from then on, to which no
// other process writes.
//
// Earlier plugins and daemons use one file name for all reports of a pod, and may replace that file at any time.
// readAndRename therefore renames such a file before it reads it. What is later removed or set aside is the renamed
// file, and a new file with the old name is a separate one. If this process ends meanwhile, the next daemon reads the
// renamed file as any other.
func (q *Writer) readAndRename(name string) (*publish.Report, string, error) {
	if !publish.IsFileName(name) {
		own := publish.FileName(time.Now().UnixNano(), rand.Uint64())
		if err := os.Rename(filepath.Join(q.spool.dir, name), filepath.Join(q.spool.dir, own)); err != nil {
			return nil, name, err
		}
		name = own
	}
	r, err := q.spool.read(name)
	return r, name, err
}
