// Package wirev1 has the messages between the plugin on the host and the daemon, in the first version of the protocol:
// the paths on the unix socket, the keys of the JSON, and the conversions to and from the values of the engine. The
// package only describes messages: wire/client sends them, and the daemon's server answers. It is imported by the hosts
// of the plugin and of the daemon, and by tools. It does not import net/http, because every import adds to the start-up
// time of the plugin.
//
// During an update of a node either side may be older than the other for a while, and a file with a report may be read
// by a daemon of another version than its writer. So these rules apply to every message:
//
//   - A key keeps its name, its type and its meaning. A type of the engine may change without a change of its message.
//   - A key may be added. A reader that does not have it ignores it. A writer that does not have it omits it, and the
//     reader then takes the zero value. So the zero value must mean what was true before the key existed. New keys have
//     omitempty.
//   - Any other change is another version: another package, with other paths.
//
// Keys that appear in a message are recorded in internal/testutil/wire.
package wirev1

import (
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// Paths on the socket. Every error is a CNI error object {code, msg, details}.
const (
	// PathPlan: POST with a Request returns a Plan.
	PathPlan = "/v1/plan"
	// PathReport: POST with a Report. If it has Wait set, the response follows the writing of the network status; else it
	// is sent at once.
	PathReport = "/v1/report"
	// PathStatus: GET with ?key= returns the last StatusResult for that configuration. A plugin that has run STATUS of the
	// cluster network sends the result with POST.
	PathStatus = "/v1/status"
	// PathHealth and PathReady: GET returns 200 if the daemon serves, and if it can plan.
	PathHealth = "/healthz"
	PathReady  = "/readyz"
)

// StatusTTL is how long a STATUS result of the cluster network is valid. Runtimes call STATUS every few seconds
// (multus-cni#1519), and a result must not be older than that.
const StatusTTL = 3 * time.Second

// StatusResult is the STATUS result of the cluster network for a configuration. The plugin and the daemon write it and
// read it.
type StatusResult struct {
	// Key identifies the configuration: a hash of its bytes, which the plugin chooses.
	Key string `json:"key"`
	// Known is false in a response if there is no valid result. It has no meaning in a request.
	Known bool `json:"known"`
	// Error is the error of the cluster network. The key is absent if the cluster network is ready.
	Error *types.Error `json:"error,omitempty"`
	// Work in a response reports whether there is work for a runner (PathWork) and none does it. The plugin then starts
	// one.
	Work bool `json:"work,omitempty"`
}

// ReportDir is the directory beside the socket in which the plugin stores reports that need no response, or that it
// could not deliver, one Report in each file. The daemon processes and removes them.
const ReportDir = "reports"
