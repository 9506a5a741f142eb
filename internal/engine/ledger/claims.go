package ledger

import (
	"errors"
	"fmt"
	"os"

	"multus/internal/device"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

// Claims lists the recorded attachments of all sandboxes with the devices that they have or ask for. Busy is set where
// somebody holds the sandbox's lock in lockFile. It changes nothing: what cannot be read of a record is left out, and
// is DEL's to deal with.
func (s *Store) Claims(lockFile string) ([]device.Claim, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var out []device.Claim
	for _, e := range entries {
		if _, err := s.file(e.Name()); err != nil || !e.Type().IsRegular() {
			continue
		}
		b, err := s.load(e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read record: %w", err)
		}
		r := &Record{ContainerID: e.Name()}
		_ = s.decode(r, b, UsualName) // as much as can be read
		busy, err := fsx.Held(lockFile, r.ContainerID)
		if err != nil {
			return nil, err
		}
		for i := range r.Attachments {
			c := claim(r, &r.Attachments[i])
			c.Busy, c.Undone = busy, r.Progress.Undone
			out = append(out, c)
		}
	}
	return out, nil
}

// ClaimsOf are the claims of a plan, whose sandbox's lock is the caller's.
func ClaimsOf(p *plan.Plan) []device.Claim {
	r := &Record{ContainerID: p.ContainerID, Netns: p.Netns}
	out := make([]device.Claim, len(p.Attachments))
	for i := range p.Attachments {
		out[i] = claim(r, &p.Attachments[i])
	}
	return out
}

func claim(r *Record, a *plan.Attachment) device.Claim {
	c := device.Claim{ContainerID: r.ContainerID, Network: a.Name, IfName: a.IfName, Netns: r.Netns, Device: a.HostDevice, Peer: -1}
	if name := a.Args.Get(request.PodName); name != "" {
		c.Pod = a.Args.Get(request.PodNamespace) + "/" + name
	}
	// What cannot be read asks for nothing: its plugin has refused it.
	c.References, _ = device.References(a.Name, a.Config, a.RuntimeConfig)
	return c
}
