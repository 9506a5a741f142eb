package daemon

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
	// damaged is the end of the name of a file without a report. maxDamaged of them are kept, for damagedAge at most.
	damaged    = ".damaged"
	damagedAge = 24 * time.Hour
	maxDamaged = 16
	// maxReport limits one file, maxSpool all of them: the directory is in memory.
	maxReport = 4 << 20
	maxSpool  = 32 << 20
)

// spool is the directory of reports that wait.
type spool struct {
	dir string
	// mu is held during all work on files, so that the file of a report is never written after the report was dropped. It
	// guards all below, and the fields of pending that say so.
	mu sync.Mutex
	// files are the names of the files that were read, and whether their report is still needed: a file that is not needed
	// could not be removed. None is read twice.
	files map[string]bool
	// sizes are those of files whose report is needed, total their sum.
	sizes map[string]int64
	total int64
	// reading, if set, is called before a file is read, whose error is that of reading it: for tests.
	reading func(name string) error
	// unread are the files that could not be read, which is logged once.
	unread map[string]bool
}

func newSpool(dir string) *spool {
	return &spool{dir: dir, files: map[string]bool{}, sizes: map[string]int64{}, unread: map[string]bool{}}
}

// tooLarge reports whether the files exceed their limit.
func (s *spool) tooLarge() bool { return s.total > maxSpool }

// own notes that a file has a report that is needed.
func (s *spool) own(name string, size int64) {
	s.total += size - s.sizes[name]
	s.files[name], s.sizes[name] = true, size
}

// remove removes a file. If that fails it is tried again at each look; the file is never taken up again.
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

// errDamaged says that a file has no report in it.
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
	if !r.HasStatus() { // no other is ever left in a file
		return nil, fmt.Errorf("%w: it has no status", errDamaged)
	}
	return r, nil
}

// keep writes a report to its file, unless it is there, or not needed any more.
func (q *queue) keep(p *pending) {
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	q.keepLocked(p)
	q.limit()
}

// markTold notes that the events of a report are written. Its file has to say so if it may outlive this process; the
// status of most reports is written at once.
func (q *queue) markTold(p *pending) {
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	p.told = true
	q.mu.Lock()
	failed := p.tries > 0
	q.mu.Unlock()
	if failed {
		q.keepLocked(p)
	}
}

// keepLocked is keep for a caller that holds spool.mu. A report that is in its file is not held in memory.
func (q *queue) keepLocked(p *pending) {
	q.mu.Lock()
	r, dropped, tried := p.report, p.dropped, p.tries > 0
	q.mu.Unlock()
	if dropped {
		return
	}
	if p.file == "" || p.marked != p.told {
		if err := q.writeFile(p, r); err != nil {
			q.log.Error("keep report", "pod", podName(p.pod), "container", p.container, "err", err)
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

// writeFile writes the file of a report, which is read from there if r is nil.
func (q *queue) writeFile(p *pending, r *publish.Report) (err error) {
	if r == nil {
		if r, err = q.spool.read(p.file); err != nil {
			return err
		}
	}
	out := *r
	out.Told = p.told
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
	// Not synced: after a reboot there is no such sandbox. Should the plugin leave the report, too, it is the same one.
	if err := fsx.Replace(filepath.Join(q.spool.dir, name), b, 0o600); err != nil {
		return err
	}
	p.file, p.marked = name, out.Told
	q.spool.own(name, int64(len(b)))
	return nil
}

// discard removes the file of a report that is not needed any more: the file never had, and never will have, another
// report (publish.File). The caller holds spool.mu.
func (q *queue) discard(p *pending) {
	if p.file != "" {
		q.remove(p.file)
		p.file = ""
	}
}

func (q *queue) remove(name string) {
	if err := q.spool.remove(name); err != nil {
		q.log.Warn("remove report that is not needed any more", "file", name, "err", err)
	}
}

// takeUp queues the reports that are in files and not known, and removes what killed writers left half-written.
func (q *queue) takeUp() {
	if err := fsx.Sweep(q.spool.dir, fsx.Abandoned); err != nil {
		q.log.Warn("files of killed processes are left", "err", err)
	}
	q.spool.mu.Lock()
	waiting, entries := q.look()
	q.spool.mu.Unlock()
	q.removeDamaged(entries)
	for _, p := range waiting {
		q.push(p)
	}
}

// removeDamaged removes the files without a report that are old, or too many.
func (q *queue) removeDamaged(entries []os.DirEntry) {
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
			_ = os.Remove(filepath.Join(q.spool.dir, info.Name())) // tried again at the next look
		}
	}
}

// found is a report that was read from a file.
type found struct {
	pending *pending
	size    int64
}

// look registers the reports that are in files and not known, and returns those that the caller has to push. Among
// reports that are found together the time decides which one of a pod is the latest. The caller holds spool.mu.
func (q *queue) look() ([]*pending, []os.DirEntry) {
	entries, err := os.ReadDir(q.spool.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		q.log.Error("read reports that wait", "err", err)
	}
	var all []found
	for _, e := range entries {
		if f := q.open(e.Name()); f != nil {
			all = append(all, *f)
			if f.size > smallReport || len(all) > maxInMemory {
				f.pending.report = nil // not shared yet
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

// lookAt registers the report of a file. It returns nil if there is none, if it is known, or if it is not needed.
func (q *queue) lookAt(name string) *pending {
	q.spool.mu.Lock()
	defer q.spool.mu.Unlock()
	if f := q.open(name); f != nil {
		return q.adopt(*f)
	}
	return nil
}

// open reads a file that is not known. It returns nil if there is nothing to register. The caller holds spool.mu.
func (q *queue) open(name string) *found {
	if filepath.Ext(name) != ".json" || strings.HasPrefix(name, ".") {
		return nil
	}
	if needed, known := q.spool.files[name]; known {
		if !needed {
			q.remove(name)
		}
		return nil
	}
	r, name, err := q.claim(name)
	path := filepath.Join(q.spool.dir, name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged):
		q.log.Error("report passed over", "file", path, "err", errors.Join(err, q.setAside(path)))
		return nil
	case err != nil:
		if !q.spool.unread[name] && len(q.spool.unread) < maxWaiting {
			q.spool.unread[name] = true
			q.log.Error("report is read later", "file", path, "err", err)
		}
		return nil
	}
	delete(q.spool.unread, name)
	q.onTaken(r)
	p := newPending(r)
	p.file = name
	var size int64
	if info, err := os.Stat(path); err == nil {
		size = info.Size()
	}
	return &found{p, size}
}

// setAside renames a file without a report, so that it can be looked at. One that is too large is removed.
func (q *queue) setAside(path string) error {
	if info, err := os.Lstat(path); err == nil && info.Size() > maxReport {
		return os.Remove(path)
	}
	return os.Rename(path, path+damaged)
}

// adopt registers a report that was read. A file of a report that is known is used if that has none, and removed
// otherwise. The caller holds spool.mu.
func (q *queue) adopt(f found) *pending {
	p := f.pending
	q.spool.own(p.file, f.size)
	latest := q.register(p)
	q.mu.Lock()
	dropped := latest.dropped
	q.mu.Unlock()
	switch {
	case latest != p && latest.file == "": // it came over the socket, too
		latest.file, latest.marked = p.file, p.marked
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

// claim reads the report of a file and returns it with the file's name from then on, which no other process writes
// to. Earlier plugins and daemons have one name for all reports of a pod: a file of that name may be replaced at any
// time, so it is renamed first, unread. What is read, and then removed or set aside, is what was renamed; what comes
// under the old name later is another file. If this process ends meanwhile, the next one takes the file up as any
// other.
func (q *queue) claim(name string) (*publish.Report, string, error) {
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
