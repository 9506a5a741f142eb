package daemon

import "testing"

// TestHealth checks that probes are answered on the loopback, and that nothing else is served there.
func TestHealth(t *testing.T) {
	t.Parallel()
	d := runDaemon(t, shortDir(t), freePort(t), 0)
	d.await(t)
	for _, tt := range []struct {
		path string
		want int
	}{{"/healthz", 200}, {"/readyz", 200}, {"/v1/plan", 404}, {"/v1/status", 404}, {"/", 404}} {
		if got := d.probe(tt.path); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.path, got, tt.want)
		}
	}
}
