package cniconf

import "testing"

// TestPluginConfig checks that Multus gets its own plugin of a list, such as that of the thin deployment (behaviour
// G9).
func TestPluginConfig(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ in, want string }{
		"a plugin": {
			`{"cniVersion":"1.0.0","name":"m","type":"multus-shim","logFile":"x"}`,
			`{"cniVersion":"1.0.0","name":"m","type":"multus-shim","logFile":"x"}`,
		},
		"a list": {
			`{"cniVersion":"1.0.0","name":"m","plugins":[{"type":"multus","logFile":"x"}]}`,
			`{"cniVersion":"1.0.0","logFile":"x","name":"m","type":"multus"}`,
		},
		"others in it": {`{"cniVersion":"1.0.0","name":"m","plugins":[{"type":"tuning"},{"type":"multus-shim"},{"type":"portmap"}]}`, `{"cniVersion":"1.0.0","name":"m","type":"multus-shim"}`},
		"no Multus": {
			`{"cniVersion":"1.0.0","name":"m","plugins":[{"type":"bridge"}]}`,
			`{"cniVersion":"1.0.0","name":"m","plugins":[{"type":"bridge"}]}`,
		},
		"not JSON": {`{`, `{`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := string(PluginConfig([]byte(tc.in))); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}
