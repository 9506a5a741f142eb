// Package podstatus writes the network status and the events of pods to the cluster, and keeps what cannot be written
// yet in files. It does not decide what a status contains, which is the task of internal/engine/publish. The daemon and
// the handlers of its socket import it.
//
// The life of a report:
//
//  1. It arrives over the socket (Writer.Accept), or in a file that a plugin left (watch.go).
//  2. It becomes the latest report of its pod (latest.go). The report that it replaces is dropped: the sandbox of that
//     one is gone. A report that arrives twice counts once.
//  3. A worker makes the first attempt to write its status (attempt.go). First attempts go before repeated ones
//     (lanes.go). The events of the report are written at the same time (events.go), and no pod waits for them.
//  4. If the attempt fails, or before the socket answers, the report is saved in a file (files.go, spool.go).
//  5. Attempts are repeated with growing pauses. If a permission is missing, few statuses are tried (forbidden.go).
//  6. The report ends, and its file is removed, when the status is written, when it is given up because the API server
//     rejects it for good or too many reports wait, when a later report of the pod arrives, or when the sandbox is
//     deleted.
//
// Two locks guard a report: Writer.disk its file, and latest.mu the rest. If both are needed, Writer.disk is locked
// first. It is held during I/O, the other one never is.
package podstatus
