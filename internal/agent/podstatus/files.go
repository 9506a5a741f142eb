package podstatus

import (
	"cmp"
	"fmt"
	"slices"

	"multus/internal/engine/publish"
	"multus/internal/failpoint"
)

// maxInMemory limits how many of the waiting reports that have a file are also held in memory, each with at most
// smallReport bytes. The others are read again when they are written.
const (
	maxInMemory = 64
	smallReport = 256 << 10
)

// keep saves a report in its file.
func (w *Writer) keep(p *pending) {
	w.disk.Lock()
	defer w.disk.Unlock()
	w.save(p)
	w.limit()
}

// save writes a report to its file, unless the file is up to date or the report no longer waits. After a failed
// attempt, it removes the report from memory once it is in its file. The caller holds disk.
func (w *Writer) save(p *pending) {
	if !w.latest.waits(p) {
		return
	}
	r, tries := w.latest.load(p)
	if p.file == "" || w.spool.files[p.file].eventsWritten != p.eventsWritten {
		if err := w.writeFile(p, r); err != nil {
			w.log.Error("cannot save report", "pod", p.pod.LogName(), "container", p.container, "err", err)
			return
		}
		failpoint.At("daemon.spool.written")
	}
	if tries > 0 {
		w.latest.unload(p)
	}
}

// writeFile writes the file of a report. If r is nil, it reads the report from that file first. The caller holds disk.
func (w *Writer) writeFile(p *pending, r *publish.Report) (err error) {
	if r == nil {
		if r, _, err = w.spool.read(p.file); err != nil {
			return err
		}
	}
	out := *r
	out.EventsWritten = p.eventsWritten
	name := cmp.Or(p.file, p.id)
	if err := w.spool.write(name, &out); err != nil {
		return err
	}
	p.file = name
	return nil
}

// readFile returns the report of p from its file.
func (w *Writer) readFile(p *pending) (*publish.Report, error) {
	w.disk.Lock()
	defer w.disk.Unlock()
	r, _, err := w.spool.read(p.file)
	return r, err
}

// markEventsWritten records that the events of a report were written. The file of the report must record it, too, if
// the report may outlive this process. The statuses of most reports are written at once, so that they need no file.
func (w *Writer) markEventsWritten(p *pending) {
	w.disk.Lock()
	defer w.disk.Unlock()
	p.eventsWritten = true
	if _, tries := w.latest.load(p); tries > 0 {
		w.save(p)
	}
}

// removeWritten ends a report whose status was written, and removes its file.
func (w *Writer) removeWritten(p *pending) {
	w.disk.Lock()
	defer w.disk.Unlock()
	if w.latest.remove(p) && p.file != "" {
		w.discard(p)
		failpoint.At("daemon.spool.removed")
	}
}

// discard removes the file of a report that no longer waits. A file never contains another report than its first
// (publish.Report.File). The caller holds disk.
func (w *Writer) discard(p *pending) {
	if p.file != "" {
		w.spool.remove(p.file)
		p.file = ""
	}
}

// limit gives up the oldest reports while too many wait, and the largest ones while their files are too large. The
// caller holds disk.
func (w *Writer) limit() {
	size := func(p *pending) int64 { return w.spool.files[p.file].size }
	for {
		var victim *pending
		switch {
		case w.latest.len() > maxWaiting:
			victim = w.latest.oldest()
		case w.spool.total > maxSpool:
			victim = w.latest.first(func(a, b *pending) bool { return size(a) > size(b) })
			if victim != nil && size(victim) == 0 {
				return // none of the waiting reports has a file
			}
		}
		if victim == nil {
			return
		}
		w.giveUp(victim, fmt.Errorf("too many reports are waiting in %s", w.spool.dir))
	}
}

// found is a report that was read from a file, which has size bytes.
type found struct {
	*pending
	size int64
}

// scanAndQueue queues the reports that were left in files, and removes files that are of no use.
func (w *Writer) scanAndQueue() {
	w.spool.sweep()
	w.disk.Lock()
	waiting := w.scan()
	w.disk.Unlock()
	w.queue(waiting...)
}

// scan reads the files that were not read yet, registers their reports, and returns those that the caller has to queue.
// Of several reports of one pod that are found together, the one with the latest time counts as the latest. The caller
// holds disk.
func (w *Writer) scan() (waiting []*pending) {
	var all []*found
	for _, name := range w.spool.names() {
		if f := w.open(name); f != nil {
			all = append(all, f)
			if f.size > smallReport || len(all) > maxInMemory {
				f.report = nil // no other goroutine uses it yet
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *found) int { return cmp.Compare(a.time, b.time) })
	for _, f := range all {
		if w.adopt(f) {
			waiting = append(waiting, f.pending)
		}
	}
	return waiting
}

// scanFile reads one file, and registers and queues its report.
func (w *Writer) scanFile(name string) {
	w.disk.Lock()
	f := w.open(name)
	waits := f != nil && w.adopt(f)
	w.disk.Unlock()
	if waits {
		w.queue(f.pending)
	}
}

// open reads a file that was not read yet. It returns nil if there is no report to register. The caller holds disk.
func (w *Writer) open(name string) *found {
	r, name, size := w.spool.open(name)
	if r == nil {
		return nil
	}
	w.observer.Observe(r)
	w.arrived(r)
	p := newPending(r)
	p.file = name
	return &found{p, size}
}

// adopt registers a report that was read from a file, and reports whether the caller has to queue it. If the same
// report already waits, that one gets this file unless it has a file; otherwise this file is removed. The caller holds
// disk.
func (w *Writer) adopt(f *found) bool {
	w.spool.add(f.file, file{size: f.size, eventsWritten: f.eventsWritten})
	registered := w.register(f.pending)
	switch {
	case registered != f.pending && registered.file == "": // the same report came over the socket
		registered.file = f.file
		return false
	case registered == f.pending && w.latest.waits(f.pending):
		return true
	}
	w.discard(f.pending)
	return false
}
