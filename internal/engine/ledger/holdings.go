package ledger

import (
	"errors"
	"fmt"
	"os"

	"multus/internal/device"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

// cachedHoldings caches what Holdings read from a record, as long as the record's file does not change.
type cachedHoldings struct {
	file     os.FileInfo
	holdings []device.Holding
}

// Holdings lists the recorded attachments of all sandboxes with the devices that they hold or request. It sets Busy if
// another process holds the sandbox's lock in lockFile, unless lockFile is "". It changes nothing and omits what cannot
// be read of a record, which is left to DEL. Repeated calls on one Store read only the records that have changed:
// records can be large and must not all be read while the lock on all devices of the node is held.
func (s *Store) Holdings(lockFile string) ([]device.Holding, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var out []device.Holding
	now := map[string]cachedHoldings{}
	for _, e := range entries {
		id := e.Name()
		if _, err := s.file(id); err != nil || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err == nil {
			now[id], err = s.cachedHoldings(id, info)
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // removed in the meantime
		}
		if err != nil {
			return nil, fmt.Errorf("read record: %w", err)
		}
		busy := false
		if lockFile != "" {
			if busy, err = fsx.Held(lockFile, id); err != nil {
				return nil, err
			}
		}
		for _, h := range now[id].holdings {
			h.Busy = busy
			out = append(out, h)
		}
	}
	s.holdings = now
	return out, nil
}

// cachedHoldings returns what the record with the file info holds. It reads the record unless the cached value is still
// valid.
func (s *Store) cachedHoldings(id string, info os.FileInfo) (cachedHoldings, error) {
	if k, ok := s.holdings[id]; ok && os.SameFile(k.file, info) && k.file.ModTime().Equal(info.ModTime()) &&
		k.file.Size() == info.Size() {
		return k, nil
	}
	b, err := s.load(id)
	if errors.Is(err, fsx.ErrTooLarge) || errors.Is(err, fsx.ErrNotRegular) {
		b, err = nil, nil
	}
	if err != nil {
		return cachedHoldings{}, err
	}
	r := &Record{ContainerID: id}
	_ = s.decode(r, b, DefaultIfName) // as much as can be read
	k := cachedHoldings{file: info}
	for i := range r.Attachments {
		h := holding(r, &r.Attachments[i])
		h.Undone = r.Progress.Undone
		k.holdings = append(k.holdings, h)
	}
	return k, nil
}

// Holdings returns what the attachments of a record hold. The caller holds the sandbox's lock.
func (r *Record) Holdings() []device.Holding {
	out := make([]device.Holding, len(r.Attachments))
	for i := range r.Attachments {
		out[i] = holding(r, &r.Attachments[i])
	}
	return out
}

func holding(r *Record, a *Attachment) device.Holding {
	h := device.Holding{
		ContainerID: r.ContainerID, Network: a.Name, IfName: a.IfName, Netns: r.Netns, Device: a.HostDevice,
		Peer: -1,
	}
	if name := a.Args.Get(request.PodName); name != "" {
		h.Pod = a.Args.Get(request.PodNamespace) + "/" + name
	}
	// A configuration that cannot be read requests no device: its plugin has refused it.
	h.References, _ = device.References(a.Name, a.Config, a.RuntimeConfig)
	return h
}
