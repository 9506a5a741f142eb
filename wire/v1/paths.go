// Package wirev1 defines the protocol between the plugin on the host and the daemon, in its first version: the paths on
// the unix socket and the message of STATUS results. The other bodies are the engine's own values as JSON (a request
// in, a plan out; a report in). The package only describes messages: wire/client sends them. It is imported by the
// hosts of the plugin and of the daemon, and by tools. It does not import net/http, because every import adds to the
// start-up time of the plugin.
package wirev1

import (
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// Paths on the socket. Every error is a CNI error object {code, msg, details}.
const (
	// PathPlan: POST with a request returns a plan.
	PathPlan = "/v1/plan"
	// PathReport: POST with a report. If the report has Wait set, the response follows the writing of the network status;
	// else it is sent at once.
	PathReport = "/v1/report"
	// PathStatus: GET with ?key= returns the last STATUS result for that configuration as a Status. A plugin that has run
	// STATUS of the cluster network sends the result with POST, as a Status.
	PathStatus = "/v1/status"
	PathHealth = "/healthz"
	PathReady  = "/readyz"
)

// StatusTTL is how long a STATUS result of the cluster network is valid. Runtimes call STATUS every few seconds
// (multus-cni#1519), and a result must not be older than that.
const StatusTTL = 3 * time.Second

// Status is the STATUS result of the cluster network for a configuration.
type Status struct {
	// Key identifies the configuration: a hash of its bytes.
	Key string `json:"key"`
	// Known is false in a response if there is no fresh result.
	Known bool `json:"known"`
	// Error is nil if the network is ready.
	Error *types.Error `json:"error,omitempty"`
}

// ReportDir is the directory beside the socket in which the plugin stores reports that need no response, or that it
// could not deliver. The daemon processes and removes them.
const ReportDir = "reports"
