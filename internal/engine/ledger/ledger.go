// Package ledger keeps a record of what was planned for each sandbox, from before the first delegate runs until
// everything is freed, so that DEL, CHECK and GC depend on no other process. Each container has one file in the state
// directory, in the format of today's Multus, so that a node can be upgraded and downgraded with pods running
// (behaviour D80-D84, Q5). The package runs nothing. It is imported by the engine, by the tools that inspect a node,
// and by the uninstaller.
package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/cniconf"
	"multus/internal/engine/request"
	"multus/internal/failpoint"
	"multus/internal/fsx"
	"multus/internal/rawjson"
)

const (
	// damagedDir holds files that could not be read, for inspection.
	damagedDir = "damaged"
	// sweptFile is in networksDir, because today's Multus treats every file in the state directory as a record.
	sweptFile = ".swept"
)

// ErrNoDirectory is returned by Read if the path of the state directory is not a directory. No ADD can have recorded
// anything there, and so none can have attached anything.
var ErrNoDirectory = errors.New("the state directory is not a directory")

// Store is the ledger of one state directory.
type Store struct {
	// Dir is cniDir of the configuration (behaviour A16).
	Dir string
	// BinDir is binDir of the runtime's configuration. If a record has another one, it is written.
	BinDir string
	// Boot identifies this boot of the node. It is "" if the boot is not known.
	Boot string
	Log  *slog.Logger

	// linkless is the Dir that dropLinks has checked.
	linkless string
	// holdings is the result of the last call of Holdings, by container ID.
	holdings map[string]cachedHoldings
}

// Write writes a record durably: after it has returned, a power loss does not lose the record.
func (s *Store) Write(r *Record) error {
	elements := make([]*element, len(r.Attachments))
	for i := range r.Attachments {
		e, err := encode(&r.Attachments[i], i, r)
		if err != nil {
			return fmt.Errorf("record container %s: %w", r.ContainerID, err)
		}
		if r.BinDir != s.BinDir {
			e.BinDir = r.BinDir
		}
		e.Boot = s.Boot
		elements[i] = e
	}
	return s.write(r.ContainerID, elements)
}

func (s *Store) write(containerID string, elements []*element) error {
	b := rawjson.AppendArray(nil, elements, func(e **element, b []byte) []byte { return (*e).appendJSON(b) })
	if failpoint.Skip("ledger.write") {
		return nil
	}
	path, err := s.file(containerID)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(s.Dir, 0o700), s.dropLinks()); err != nil {
		return fmt.Errorf("record container %s: %w", containerID, err)
	}
	if err := fsx.WriteAtomic(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("record container %s: %w", containerID, err)
	}
	return nil
}

// Has reports whether a sandbox has a record, even a damaged one. Unlike the cost of Read for a sandbox without a
// record, its cost does not depend on the number of records.
func (s *Store) Has(containerID string) bool {
	path, err := s.file(containerID)
	if err != nil {
		return false
	}
	_, err = os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// Read returns the record of a sandbox, or nil if the sandbox has no record. ifName is the runtime's name for the
// interface of the cluster network. Elements that cannot be read never hide the others: the damaged file is set aside,
// and libcni's results for the sandbox replace what is missing.
func (s *Store) Read(containerID, ifName string) (*Record, error) {
	if err := s.dropLinks(); err != nil {
		return nil, fmt.Errorf("read record of container %s: %w", containerID, err)
	}
	r := &Record{ContainerID: containerID}
	b, err := s.load(containerID)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%w: %w", ErrNoDirectory, err)
	case errors.Is(err, fsx.ErrNotRegular), errors.Is(err, fsx.ErrTooLarge):
		r.Damaged = true
		if err := s.setAsideFile(filepath.Join(s.Dir, containerID)); err != nil {
			return nil, err
		}
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read record of container %s: %w", containerID, err)
	default:
		if s.decode(r, b, ifName) == nil {
			return r.orNil(), nil
		}
		r.Damaged = true
		s.setAside(containerID, b)
	}
	if err := s.addResults(r, ifName); err != nil {
		return nil, err
	}
	return r.orNil(), nil
}

// decode reads as many elements as it can. It returns an error if it could not read some of them.
func (s *Store) decode(r *Record, b []byte, ifName string) error {
	var raw []json.RawMessage
	if !json.Valid(b) || rawjson.Array(b, func(item []byte) error { raw = append(raw, item); return nil }) != nil {
		return json.Unmarshal(b, &raw) // for its error
	}
	var errs []error
	for i, item := range raw {
		err := r.add(i, item, ifName)
		if errors.Is(err, errNeverAttached) {
			s.Log.Error("attachment of a record ignored", "container", r.ContainerID, "err", err)
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// add adds the attachment of element i of the file.
func (r *Record) add(i int, item []byte, ifName string) error {
	var e element
	if err := e.parse(item); err != nil {
		return err
	}
	a, err := e.decode(i, r.ContainerID, ifName)
	if err != nil {
		return err
	}
	r.Attachments = append(r.Attachments, *a)
	r.Netns, r.BinDir, r.Boot = cmp.Or(e.Netns, r.Netns), cmp.Or(e.BinDir, r.BinDir), cmp.Or(e.Boot, r.Boot)
	r.Progress = Progress{Undone: e.Undone || r.Progress.Undone, Begun: max(e.Begun, r.Progress.Begun)}
	return nil
}

// Complete adds what is stored beside a record: its age and, for a record of today's Multus, the network namespace in
// libcni's results. Both are only for the search for sandboxes that are gone. So it is not an error if they are
// unknown, and no DEL pays for the lookup.
func (s *Store) Complete(r *Record) {
	if a := age(filepath.Join(s.Dir, r.ContainerID)); a > 0 {
		r.Age = a // else keep the age of libcni's results
	}
	if r.Netns != "" {
		return
	}
	cached, err := s.cached(r.ContainerID)
	if err == nil && len(cached) > 0 {
		r.Netns = cached[0].NetNS
	}
}

// Age returns how long ago a sandbox was recorded, or 0 if it has no record.
func (s *Store) Age(containerID string) time.Duration {
	path, err := s.file(containerID)
	if err != nil {
		return 0
	}
	return age(path)
}

// age returns the age of a file, or 0 if the file does not exist.
func age(path string) time.Duration {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return time.Since(info.ModTime())
}

// setAside keeps a copy of a damaged file, one for each content. DEL continues without the file.
func (s *Store) setAside(containerID string, b []byte) {
	name := containerID + "." + strconv.FormatUint(hash(b), 16)
	path := filepath.Join(s.Dir, damagedDir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = fsx.WriteAtomic(path, b, 0o600)
	}
	s.Log.Error("record is damaged: moved aside, using the cached results of libcni", "container", containerID, "file",
		path, "err", err)
}

// addResults adds the attachments that are in libcni's result cache and not in r.
func (s *Store) addResults(r *Record, ifName string) error {
	cached, err := s.cached(r.ContainerID)
	if err != nil {
		return fmt.Errorf("read results of container %s: %w", r.ContainerID, err)
	}
	slices.SortFunc(cached, func(a, b *libcni.NetworkAttachment) int {
		return byPlace(a.IfName, b.IfName, ifName)
	})
	for _, c := range cached {
		if slices.ContainsFunc(r.Attachments, func(a Attachment) bool { return a.IfName == c.IfName }) {
			continue
		}
		a, err := fromResult(c, ifName)
		if err != nil {
			s.Log.Error("cached result of libcni ignored", "container", r.ContainerID, "network", c.Network, "err", err)
			r.Damaged = r.Damaged || !errors.Is(err, errNeverAttached)
			continue
		}
		r.Attachments = append(r.Attachments, *a)
		r.Netns = c.NetNS
		r.Age = age(filepath.Join(ResultsDir(s.Dir), c.Network+"-"+c.ContainerID+"-"+c.IfName))
	}
	r.sort(ifName)
	return nil
}

// sort orders the attachments by their interfaces, and those of one interface as in the file. Pointers are sorted,
// because sorting the values takes more code than anything else here, and every pod waits for the plugin to be read.
func (r *Record) sort(ifName string) {
	all := make([]*Attachment, len(r.Attachments))
	for i := range r.Attachments {
		all[i] = &r.Attachments[i]
	}
	slices.SortFunc(all, func(a, b *Attachment) int {
		return cmp.Or(byPlace(a.IfName, b.IfName, ifName), cmp.Compare(a.element, b.element))
	})
	sorted := make([]Attachment, len(all))
	for i, a := range all {
		sorted[i] = *a
	}
	r.Attachments = sorted
}

func fromResult(c *libcni.NetworkAttachment, ifName string) (*Attachment, error) {
	l, err := cniconf.Parse(c.Config)
	if err == nil {
		l, err = l.WithDefaults(c.Network, "") // libcni gets the name from elsewhere
	}
	if err != nil {
		return nil, err
	}
	a := &Attachment{
		element: -1, Name: c.Network, IfName: c.IfName, Primary: c.IfName == ifName, Config: l,
		Args: c.CniArgs,
	}
	if err := checkNames(a); err != nil {
		return nil, err
	}
	if len(c.CapabilityArgs) == 0 {
		return a, nil
	}
	a.RuntimeConfig = map[string]json.RawMessage{}
	for k, v := range c.CapabilityArgs {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		a.RuntimeConfig[k] = b
	}
	return a, nil
}

// byPlace orders interface names as ADD does: the cluster network first, net2 before net10.
func byPlace(a, b, primary string) int {
	if (a == primary) != (b == primary) {
		if a == primary {
			return -1
		}
		return 1
	}
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// RecordProgress writes the progress into the record of a sandbox. It does nothing for a sandbox without a record.
func (s *Store) RecordProgress(containerID string, p Progress) error {
	return s.recordProgress(containerID, p, nil)
}

// RecordDeletions is RecordProgress after a DEL. It also records how many DELs of each attachment of the record have
// failed and, if progress.Cut is set, which attachments are deleted. deletions has one entry per attachment of r.
func (s *Store) RecordDeletions(r *Record, progress Progress, deletions []Deletion) error {
	of := map[int]Deletion{}
	for i, d := range deletions {
		if at := r.Attachments[i].element; at >= 0 {
			of[at] = d
		}
	}
	return s.recordProgress(r.ContainerID, progress, of)
}

func (s *Store) recordProgress(containerID string, p Progress, of map[int]Deletion) error {
	err := s.edit(containerID, func(elements []rawElement) ([]rawElement, error) {
		for i, e := range elements {
			if e == nil {
				continue // null in a damaged record
			}
			setBool(e, "undone", p.Undone)
			setInt(e, "begun", p.Begun)
			if d, ok := of[i]; ok {
				setInt(e, "delTries", d.Tries)
				if p.Cut && d.Deleted {
					setBool(e, "deleted", true)
				}
			}
		}
		return elements, nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("note progress of container %s: %w", containerID, err)
	}
	return nil
}

// rawElement is an element of a record with all its members, also those that this version does not know.
type rawElement map[string]json.RawMessage

// edit replaces the elements of a record by what change returns.
func (s *Store) edit(containerID string, change func([]rawElement) ([]rawElement, error)) error {
	b, err := s.load(containerID)
	if err != nil {
		return err
	}
	var elements []rawElement
	if err = json.Unmarshal(b, &elements); err == nil {
		elements, err = change(elements)
	}
	if err == nil {
		b, err = json.Marshal(elements)
	}
	if err != nil {
		return err
	}
	return fsx.WriteAtomic(filepath.Join(s.Dir, containerID), b, 0o600)
}

// setBool and setInt write a member of an element. They omit a member that has the zero value.
func setBool(e rawElement, key string, v bool) {
	delete(e, key)
	if v {
		e[key] = json.RawMessage("true")
	}
}

func setInt(e rawElement, key string, v int) {
	delete(e, key)
	if v > 0 {
		e[key] = json.RawMessage(strconv.Itoa(v))
	}
}

// Remove removes the record of a sandbox. A sandbox without a record is not an error.
func (s *Store) Remove(containerID string) error {
	path, err := s.file(containerID)
	if err != nil {
		return err
	}
	if err := fsx.Remove(path); err != nil {
		return fmt.Errorf("remove record of container %s: %w", containerID, err)
	}
	s.settle(containerID)
	s.sweep()
	return nil
}

// sweep removes incomplete files of killed processes. It reads whole directories, which takes longer the more pods
// there are. So only one removal per minute does it: the time of a file in networksDir is that of the last sweep.
func (s *Store) sweep() {
	mark, now := filepath.Join(s.networksDir(), sweptFile), time.Now()
	if info, err := os.Stat(mark); err == nil && info.ModTime().Before(now) && now.Sub(info.ModTime()) < fsx.TempMaxAge {
		return
	}
	err := touch(mark, now)
	// This package changes libcni's results, so that killed processes leave files there, too.
	for _, dir := range []string{s.Dir, ResultsDir(s.Dir)} {
		err = errors.Join(err, fsx.Sweep(dir, fsx.TempMaxAge))
	}
	if err != nil {
		s.Log.Warn("cannot remove temporary files of killed processes", "err", err)
	}
}

// touch creates a file or updates its time. It also creates a missing directory.
func touch(path string, now time.Time) error {
	err := os.Chtimes(path, now, now)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, nil, 0o600)
		}
	}
	return err
}

// Containers lists the sandboxes that have a record or a result of libcni, in no particular order. A link or a pipe in
// the place of a record counts, so that it is not overlooked. A directory does not count: other programs have
// directories there.
func (s *Store) Containers() ([]string, error) {
	out, err := s.Recorded()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, id := range out {
		seen[id] = true
	}
	cached, err := s.cached("")
	if err != nil {
		return nil, fmt.Errorf("list results: %w", err)
	}
	for _, c := range cached {
		if !seen[c.ContainerID] {
			seen[c.ContainerID] = true
			out = append(out, c.ContainerID)
		}
	}
	return out, nil
}

// Recorded is Containers without those that have only a result of libcni. It reads no file.
func (s *Store) Recorded() (ids []string, err error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	for _, e := range entries {
		if _, err := s.file(e.Name()); err == nil && !e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Lock takes the sandbox's lock and waits for it until ctx ends. Delegates hold the lock, too, through the file, so
// that a DEL waits for the delegates of an ADD whose plugin was killed.
func Lock(ctx context.Context, file, containerID string) (*fsx.Lock, error) {
	l, err := fsx.Acquire(ctx, file, containerID)
	if err != nil {
		return nil, fmt.Errorf("wait for another operation on container %s: %w", containerID, err)
	}
	return l, nil
}

// Merge returns the CNI_ARGS for a later verb: those of the runtime's call, and those that only ADD had.
func Merge(now, recorded request.Args) request.Args {
	out := append(request.Args(nil), now...)
	for _, p := range recorded {
		if out.Get(p[0]) == "" {
			out = out.With(p[0], p[1])
		}
	}
	return out
}
