package cniconf

import "testing"

// TestCallsMultus checks that a configuration is recognised by the plugins that it calls, not by its file name
// (multus-cni#1130).
func TestCallsMultus(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		conf string
		want bool
	}{
		"thin":                        {`{"type":"multus"}`, true},
		"thick":                       {`{"name":"x","type":"multus-shim"}`, true},
		"first of a list":             {`{"plugins":[{"type":"multus-shim"},{"type":"istio-cni"}]}`, true},
		"last of a list":              {`{"plugins":[{"type":"tuning"},{"type":"multus"}]}`, true},
		"inside of delegates":         {`{"type":"other","delegates":[{"plugins":[{"type":"multus"}]}]}`, true},
		"delegate of flannel":         {`{"plugins":[{"type":"flannel","delegate":{"type":"multus"}}]}`, true},
		"another plugin":              {`{"type":"bridge"}`, false},
		"passthru":                    {`{"type":"passthru"}`, false},
		"the name in another key":     {`{"name":"multus","type":"bridge","args":{"type":"multus"}}`, false},
		"type that is not a string":   {`{"type":["multus"]}`, false},
		"type in another letter case": {`{"type":"Multus"}`, false},
		"not an object":               {`["multus"]`, false},
		"not JSON":                    {`{"type":"multus"`, false},
		"empty":                       {``, false},
	} {
		if got := CallsMultus([]byte(tc.conf)); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if !Calls([]byte(`{"plugins":[{"type":"multus"},{"type":"passthru"}]}`), "passthru") ||
		Calls([]byte(`{"type":"multus"}`), "multus-shim") {
		t.Error("one type")
	}
	if !IsMultus("multus") || !IsMultus("multus-shim") || IsMultus("multus-daemon") || IsMultus("") {
		t.Error("IsMultus")
	}
}
