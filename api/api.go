// Package api is the wire between the plugin on the host and the daemon: paths, and a client for the unix
// socket. Bodies are the engine's own values as JSON (a request in, a plan out; a report in); this package
// does not look inside them. It is for the plugin's and the daemon's hosts and for tools; it needs the
// standard library and the CNI types only, and no net/http: the plugin's start-up pays for every import.
package api

// Paths on the socket. Every error is a CNI error object {code, msg, details}.
const (
	// PathPlan: POST, a request in, a plan out.
	PathPlan = "/v1/plan"
	// PathReport: POST, a report in; answers when the status is written if the report asks to wait, else
	// at once.
	PathReport = "/v1/report"
	// PathStatus: GET, what STATUS would say of the cluster network, cached.
	PathStatus = "/v1/status"
	PathHealth = "/healthz"
	PathReady  = "/readyz"
)

// ReportDir is the directory beside the socket where the plugin leaves reports that it could not deliver;
// the daemon takes them from there.
const ReportDir = "reports"
