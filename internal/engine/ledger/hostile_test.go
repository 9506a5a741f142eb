package ledger

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/engine/plan"
)

// FuzzHostileState checks that no name in the state directory leads out of it, whatever the directory contains, and
// that every container that is listed can be read and removed.
func FuzzHostileState(f *testing.F) {
	good := `{"kind":"cniCacheV1","containerId":"c","config":"eyJuYW1lIjoibiIsInR5cGUiOiJiIn0=","ifName":"net1","networkName":"n"}`
	record := `[{"Name":"a","Bytes":"eyJuYW1lIjoibiIsInR5cGUiOiJicmlkZ2UifQ==","ifnameRequest":"../x","deviceID":"d","capabilityArgs":{"CNIDeviceInfoFile":"/var/run/k8s.cni.cncf.io/devinfo/cni/../../../../etc/passwd"}}]`
	for _, seed := range []struct{ id, record, entry, cached string }{
		{"c", "[]", "n-c-net1", good},
		{"..", "[]", "n-c-net1", strings.ReplaceAll(good, `"c"`, `"../../etc"`)},
		{"c", record, "../n-c-net1", strings.ReplaceAll(good, `"n"`, `"../../n"`)},
		{"a/b", "null", "..", strings.ReplaceAll(good, `net1`, `../net1`)},
		{"c", strings.ReplaceAll(record, "../x", "net1"), "n-c-net1", `{"kind":"cniCacheV1","containerId":"\u0000"}`},
	} {
		f.Add(seed.id, seed.record, seed.entry, seed.cached)
	}
	s := store(f)
	outside := filepath.Join(filepath.Dir(s.Dir), "outside")
	f.Fuzz(func(t *testing.T, id, record, entry, cached string) {
		dir := filepath.Dir(s.Dir)
		for _, d := range []string{s.Dir, outside} {
			if err := os.RemoveAll(d); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(s.Dir, "results", "n-c-net9"), cached)
		_ = os.WriteFile(filepath.Join(s.Dir, "results", filepath.Base("x"+entry)), []byte(cached), 0o600)
		_ = os.WriteFile(filepath.Join(s.Dir, filepath.Base(id)), []byte(record), 0o600) // some are no file names
		write(t, outside, "outside")
		ids, err := s.Containers()
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range append(ids, id) {
			if strings.ContainsAny(id, "/\x00") && s.Has(id) {
				t.Errorf("%q has a record", id)
			}
			r, err := s.Survey(id, "eth0")
			if err == nil {
				checkPaths(t, r)
			}
			r, err = s.Read(id, "eth0")
			if err == nil && r != nil {
				checkPaths(t, r)
			}
			_ = s.Remove(id)
		}
		if b, err := os.ReadFile(outside); err != nil || string(b) != "outside" {
			t.Errorf("a file outside of the state directory changed: %q, %v", b, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 3 { // outside, the state directory, networks
			t.Errorf("%v, %v", entries, err)
		}
	})
}

// checkPaths checks that no name of a record leads to another directory when it becomes a part of a path.
func checkPaths(t *testing.T, r *Record) {
	t.Helper()
	for _, a := range r.Attachments {
		for _, name := range []string{a.Config.Name(), a.IfName, r.ContainerID} {
			if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				t.Errorf("name %q in %+v", name, a)
			}
		}
		if a.DeviceInfo != "" && !plan.IsDeviceInfo(a.DeviceInfo) {
			t.Errorf("device-info file %q", a.DeviceInfo)
		}
	}
}

// TestHostileStages checks that a stage that ADD cannot have recorded neither uses memory nor hides an attachment from
// DEL.
func TestHostileStages(t *testing.T) {
	t.Parallel()
	s := store(t)
	bytes := base64.StdEncoding.EncodeToString([]byte(`{"cniVersion":"1.0.0","name":"n","type":"t"}`))
	for _, stage := range []string{"-1", "1000000000"} {
		write(t, filepath.Join(s.Dir, "c"),
			fmt.Sprintf(`[{"Name":"a","Bytes":%[1]q},{"Name":"b","Bytes":%[1]q,"stage":%[2]s}]`, bytes, stage))
		r := read(t, s, "c")
		p := &Record{Attachments: r.Attachments}
		if got := p.Stages(); len(r.Attachments) != 2 || len(got) > 2 {
			t.Errorf("stage %s: %d attachments in %d stages", stage, len(r.Attachments), len(got))
		}
	}
}
