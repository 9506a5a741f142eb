package cniconf

import (
	"encoding/json"
	"testing"
)

// TestAnyCase checks that name, cniVersion and what is set for one pod are read in any case, as the plugin's decoder
// reads them, and are set under the existing key, so that the result has no second key for the same member (behaviour
// A2, B3, B5, C68, C69).
func TestAnyCase(t *testing.T) {
	t.Parallel()
	same := func(l *List) (*List, error) { return l, nil }
	defaults := func(l *List) (*List, error) { return l.WithDefaults("n", "1.0.0") }
	chosen := func(l *List) (*List, error) { return l.WithVersion("0.4.0") }
	args := func(l *List) (*List, error) { return l.WithCNIArgs(map[string]json.RawMessage{"vlan": []byte("2")}) }
	device := func(l *List) (*List, error) { return l.WithDevice("d") }
	without := func(l *List) (*List, error) { return l.WithoutPod() }
	for _, tc := range []struct {
		what, conf    string
		edit          func(*List) (*List, error)
		want          string
		name, version string // as libcni has them, too
	}{
		{
			"a version", `{"cniversion":"0.3.1","name":"x","type":"ok"}`, defaults,
			`{"cniversion":"0.3.1","name":"x","type":"ok"}`, "x", "0.3.1",
		},
		{
			"a name", `{"CNIVersion":"0.3.1","Name":"x","type":"ok"}`, defaults, `{"CNIVersion":"0.3.1","Name":"x","type":"ok"}`,
			"x", "0.3.1",
		},
		{
			"of a list", `{"CNIVersion":"0.3.1","NAME":"x","plugins":[{"type":"ok"}]}`, defaults,
			`{"CNIVersion":"0.3.1","NAME":"x","plugins":[{"type":"ok"}]}`, "x", "0.3.1",
		},
		{
			"a version of a list", `{"CNIVersion":"0.3.1","name":"x","plugins":[{"type":"ok"}]}`, defaults,
			`{"CNIVersion":"0.3.1","name":"x","plugins":[{"type":"ok"}]}`, "x", "0.3.1",
		},
		{
			"empty values", `{"CNIVersion":"","Name":null,"plugins":[{"type":"ok"}]}`, defaults,
			`{"CNIVersion":"1.0.0","Name":"n","plugins":[{"type":"ok"}]}`, "n", "1.0.0",
		},
		{
			"a chosen version", `{"CniVersion":"1.0.0","name":"x","type":"ok"}`, chosen,
			`{"CniVersion":"0.4.0","name":"x","type":"ok"}`, "x", "0.4.0",
		},
		{
			"an argument", `{"name":"x","type":"ok","args":{"cni":{"VLAN":1}}}`, args,
			`{"args":{"cni":{"VLAN":2}},"name":"x","type":"ok"}`, "x", "",
		},
		{
			"the objects around it", `{"name":"x","type":"ok","Args":{"CNI":{"a":1}}}`, args,
			`{"Args":{"CNI":{"a":1,"vlan":2}},"name":"x","type":"ok"}`, "x", "",
		},
		{
			"a device", `{"name":"x","type":"ok","DeviceID":"a","pcibusid":"b"}`, device,
			`{"DeviceID":"d","name":"x","pcibusid":"d","type":"ok"}`, "x", "",
		},
		{
			"without the pod", `{"name":"x","type":"ok","DeviceID":"a","pcibusid":"b","Args":{"CNI":{"a":1},"o":1}}`, without,
			`{"Args":{"o":1},"name":"x","type":"ok"}`, "x", "",
		},
		{
			"nothing to change", `{ "NAME":"x","plugins":[{"type":"ok"}]}`, same, `{ "NAME":"x","plugins":[{"type":"ok"}]}`, "x",
			"",
		},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			l, err := tc.edit(parse(t, tc.conf))
			if err != nil {
				t.Fatal(err)
			}
			if string(l.Bytes()) != tc.want || l.Name() != tc.name || l.Version() != tc.version {
				t.Errorf("%s, name %q, version %q; want %s", l.Bytes(), l.Name(), l.Version(), tc.want)
			}
			if err := l.Ambiguous(); err != nil {
				t.Error(err)
			}
			b, err := json.Marshal(l)
			if err != nil {
				t.Fatal(err)
			}
			received := &List{}
			if err := json.Unmarshal(b, received); err != nil {
				t.Fatal(err)
			}
			for _, l := range []*List{l, received} {
				made, err := l.Libcni()
				if err != nil || made.Name != tc.name || made.CNIVersion != tc.version || string(made.Bytes) != tc.want {
					t.Errorf("libcni: %+v, %v", made, err)
				}
			}
		})
	}
}
