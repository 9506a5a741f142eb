// Package claims writes what networks made of the devices of ResourceClaims into the status of the claims, and removes
// it when the sandbox is deleted (behaviour H16-H18). It learns about both from the reports of plugins. It does not
// decide what an entry contains, which is the task of internal/engine/publish, and no pod waits for it. The daemon and
// the handlers of its socket import it.
//
// The life of an entry:
//
//  1. A report with attachments arrives (Writer.Observe). What the pod should have in its claims is stored in a file,
//     a note, before the file of the report may be removed.
//  2. A worker makes the entries of the pod's claims those of its note, with one request for each claim. A failure is
//     repeated with growing pauses. If the permission is missing, one pod is tried from time to time.
//  3. The DEL of the sandbox empties the note. So does a record that is gone from the ledger: the report of a DEL may
//     be lost, because the plugin does not wait for it, and no daemon may run. The worker then removes the entries, and
//     the note with them.
//
// The notes outlive the daemon, not the node: they are in memory. After a reboot, the next sandbox of the pod replaces
// its entries. Those of a pod that is gone are removed by the API server when the claim is deallocated or deleted, and
// by the next write of any pod of the claim (publish.ClaimWriter).
package claims
