package claims

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

const (
	// suffix ends the name of the file of a note. The UID of the pod precedes it.
	suffix = ".json"
	// maxUID limits the length of a UID, which is a UUID.
	maxUID = 64
	// maxNote limits the size of a note. A device takes some hundreds of bytes, and with 16 addresses about 1 KiB.
	maxNote = 64 << 10
)

// note is what a pod should have in the status of its ResourceClaims.
type note struct {
	Pod         request.Pod `json:"pod"`
	ContainerID string      `json:"containerID"`
	// Time is that of the report in nanoseconds since 1970.
	Time int64 `json:"time"`
	// Devices are the entries. Gone is set after the DEL of the sandbox, when there are none.
	Devices []publish.ClaimedDevice `json:"devices,omitempty"`
	Gone    bool                    `json:"gone,omitempty"`
	// Claims has the claims of the devices, and those in which earlier entries of the pod may be left.
	Claims []publish.ClaimRef `json:"claims"`
	// Recorded reports whether the ledger had a record of the sandbox.
	Recorded bool `json:"recorded,omitempty"`
	// Written reports whether the claims have the entries.
	Written bool `json:"written,omitempty"`
}

// withClaims sets Claims to the claims of the devices, and others.
func (n *note) withClaims(others []publish.ClaimRef) *note {
	n.Claims = append(n.Claims, others...)
	for i := range n.Devices {
		if ref := n.Devices[i].Ref(); !slices.Contains(n.Claims, ref) {
			n.Claims = append(n.Claims, ref)
		}
	}
	return n
}

// gone returns the note after the DEL of the sandbox.
func (n *note) gone(at int64) *note {
	out := *n
	out.Devices, out.Gone, out.Written, out.Time = nil, true, false, at
	return &out
}

// done returns the note after its entries were written: earlier ones are gone.
func (n *note) done() *note {
	out := *n
	out.Claims, out.Written = nil, true
	return out.withClaims(nil)
}

func (n *note) sameDevices(other *note) bool {
	return n.Gone == other.Gone && slices.EqualFunc(n.Devices, other.Devices, func(a, b publish.ClaimedDevice) bool {
		return a.Claim == b.Claim && a.Network == b.Network && a.Interface == b.Interface && a.MAC == b.MAC &&
			slices.Equal(a.Addresses, b.Addresses)
	})
}

// validUID reports whether a UID can be in the name of a file.
func validUID(uid string) bool {
	return uid != "" && len(uid) <= maxUID && !strings.ContainsAny(uid, "/.\x00")
}

// file returns the path of the note of a pod, whose UID is valid.
func (w *Writer) file(uid string) string { return filepath.Join(w.dir, uid+suffix) }

// limit returns an error if a note of a report is too large, or if there are too many. The caller holds mu.
func (w *Writer) limit(n *note) error {
	if w.notes[n.Pod.UID] == nil && len(w.notes) >= maxNotes {
		return fmt.Errorf("%d pods have entries already", maxNotes)
	}
	b, err := json.Marshal(n)
	if err == nil && len(b) > maxNote {
		err = fmt.Errorf("it has %d bytes, at most %d are stored", len(b), maxNote)
	}
	return err
}

// store stores a note. If its file cannot be written, the entries may be left when the daemon ends. The caller holds
// mu.
func (w *Writer) store(n *note) {
	b, err := json.Marshal(n)
	if err == nil {
		err = fsx.MakeDir(w.dir, 0o700)
	}
	if err == nil {
		err = fsx.Replace(w.file(n.Pod.UID), b, 0o600)
	}
	if err != nil {
		w.log.Error("cannot save what is written into ResourceClaims", "pod", n.Pod.LogName(), "err", err)
	}
	w.notes[n.Pod.UID] = n
}

// written records that the entries of a note are written. The caller holds mu.
func (w *Writer) written(n *note) {
	if n.Gone || len(n.Devices) == 0 {
		w.remove(n)
		return
	}
	w.store(n.done())
}

// remove removes a note. The caller holds mu.
func (w *Writer) remove(n *note) {
	delete(w.notes, n.Pod.UID)
	if err := fsx.Remove(w.file(n.Pod.UID)); err != nil {
		w.log.Warn("cannot remove what was saved about ResourceClaims", "pod", n.Pod.LogName(), "err", err)
	}
}

// read reads the notes of an earlier daemon. A file without a note is removed.
func (w *Writer) read() {
	if err := fsx.Sweep(w.dir, fsx.TempMaxAge); err != nil {
		w.log.Warn("cannot remove temporary files of killed processes", "err", err)
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.log.Error("cannot read what was written into ResourceClaims", "err", err)
	}
	for _, e := range entries {
		uid, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || strings.HasPrefix(uid, ".") || len(w.notes) >= maxNotes {
			continue
		}
		n, err := w.readNote(e.Name())
		if err == nil && (n.Pod.UID != uid || !validUID(uid)) {
			err = errors.New("it is about another pod")
		}
		if err != nil {
			w.log.Error("damaged file removed", "file", filepath.Join(w.dir, e.Name()),
				"err", errors.Join(err, os.RemoveAll(filepath.Join(w.dir, e.Name()))))
			continue
		}
		w.notes[uid] = n
		w.ledger = w.ledger || n.Recorded
	}
}

func (w *Writer) readNote(name string) (*note, error) {
	b, err := fsx.ReadRegular(w.dir, name, maxNote)
	if err != nil {
		return nil, err
	}
	n := &note{}
	if err := json.Unmarshal(b, n); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return n, nil
}
