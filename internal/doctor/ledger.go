package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"multus/internal/engine"
	"multus/internal/engine/ledger"
)

// grace is the age from which on a record or a reservation can be leftover state. A younger one may belong to a sandbox
// that is being created or deleted.
const grace = engine.DefaultGrace

var ledgerCheck = Check{
	Name: "ledger", About: "every record can be read and belongs to a sandbox that exists",
	Run: func(_ context.Context, n *Node) ([]Finding, error) {
		store := n.ledger()
		ids, err := store.Containers()
		if err != nil {
			return nil, err
		}
		var out []Finding
		stale := []string{}
		for _, id := range ids {
			r, err := store.Inspect(id, ledger.DefaultIfName)
			switch {
			case err != nil:
				out = append(out, Finding{
					Severity: Warning, Message: "the record of container " + id + " is damaged", Evidence: err.Error(),
					Fix: "nothing: DEL moves it aside and uses the cached results of libcni; multusctl ledger show " + id,
				})
			case n.isStale(r):
				stale = append(stale, id)
			}
		}
		if len(stale) > 0 {
			out = append(out, Finding{
				Severity: Warning, Message: fmt.Sprintf("%d %s of sandboxes that are gone: their resources are still reserved",
					len(stale), plural(len(stale), "record")),
				Evidence: strings.Join(stale, ", "),
				Fix: "multusctl gc --dry-run shows them, multusctl gc frees them; so does the runtime's GC (containerd 2, CRI-O " +
					"1.31)",
			})
		}
		damaged, err := store.Damaged()
		if len(damaged) > 0 {
			out = append(out, Finding{
				Severity: Warning, Message: fmt.Sprintf("%d damaged %s put aside: their resources may still be reserved",
					len(damaged),
					plural(len(damaged), "record was")),
				Evidence: filepath.Join(n.stateDir(), "damaged") + ": " + strings.Join(damaged, ", "),
				Fix:      "look for reservations of these containers, then remove the files",
			})
		}
		return out, errors.Join(err, n.notMounted(n.stateDir()), n.cannotSeeNetns())
	},
}

func (n *Node) cannotSeeNetns() error {
	if n.NetnsExists == nil {
		return errors.New("network namespaces are not visible here: run it on the node")
	}
	return nil
}

// isStale reports whether the sandbox of a record has been gone for longer than grace.
func (n *Node) isStale(r *ledger.Record) bool {
	if r == nil || r.Netns == "" || n.NetnsExists == nil || n.NetnsExists(r.Netns) {
		return false
	}
	info, err := os.Stat(filepath.Join(n.path(n.stateDir()), r.ContainerID))
	return err == nil && n.Now.Sub(info.ModTime()) > grace
}
