// Package api is the wire between the plugin on the host and the daemon: paths, and a client for the unix
// socket. Bodies are the engine's own values as JSON (a request in, a plan out; a report in); this package
// does not look inside them. It is for the plugin's and the daemon's hosts and for tools; it needs the
// standard library and the CNI types only, and no net/http: the plugin's start-up pays for every import.
package api

import (
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// Paths on the socket. Every error is a CNI error object {code, msg, details}.
const (
	// PathPlan: POST, a request in, a plan out.
	PathPlan = "/v1/plan"
	// PathReport: POST, a report in; answers when the status is written if the report asks to wait, else
	// at once.
	PathReport = "/v1/report"
	// PathStatus: GET with ?key=, what the plugin last found out for that configuration, as a Status; POST of a
	// Status by the plugin that has just asked the cluster network.
	PathStatus = "/v1/status"
	PathHealth = "/healthz"
	PathReady  = "/readyz"
)

// StatusTTL is how long an answer of the cluster network to STATUS is good for: runtimes ask every few seconds
// (multus-cni#1519), and an answer must not be older than they would notice.
const StatusTTL = 3 * time.Second

// Status is what the cluster network of a configuration answered to STATUS.
type Status struct {
	// Key is the configuration's: a hash of its bytes.
	Key string `json:"key"`
	// Known is false in an answer that has nothing fresh.
	Known bool `json:"known"`
	// Error is nil when the network is ready.
	Error *types.Error `json:"error,omitempty"`
}

// ReportDir is the directory beside the socket where the plugin leaves reports that nobody waits for, or that it could
// not deliver; the daemon takes them from there.
const ReportDir = "reports"
