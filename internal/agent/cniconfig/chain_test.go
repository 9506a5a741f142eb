package cniconfig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/testutil/eventually"
)

// chainedPlugin is the plugin of another program, formatted so that any change of its bytes is detected.
const chainedPlugin = `{  "type" : "istio-cni","log_level":"debug" , "x":1.10,"kubernetes":{"html":"<&>","n":100000000000000000001}}`

// istio makes a list of a configuration as Istio's installer does: our plugin without its version comes first and its
// own follows, with another name and version of the list.
func istio(t *testing.T, conf string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(conf), &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "cniVersion")
	b, err := json.MarshalIndent(m, "    ", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"k8s-pod-network\",\n  \"plugins\": [\n    " + string(b) +
		",\n    " + chainedPlugin + "\n  ]\n}\n"
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestChainStaysInForce checks that our file never shadows a list that another program makes of it, across changes of
// the cluster network and restarts of the daemon. Our plugin in the list is updated, and every other byte is kept
// (Istio, chained).
func TestChainStaysInForce(t *testing.T) {
	t.Parallel()
	for name, install := range map[string]func(t *testing.T, file string){
		"our file is renamed": func(t *testing.T, file string) {
			list := istio(t, read(t, file))
			put(t, filepath.Dir(file), FileName, list)
			if err := os.Rename(file, file+"list"); err != nil {
				t.Fatal(err)
			}
		},
		"our file is removed": func(t *testing.T, file string) {
			put(t, filepath.Dir(file), FileName+"list", istio(t, read(t, file)))
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
		"our file is left": func(t *testing.T, file string) {
			put(t, filepath.Dir(file), FileName+"list", istio(t, read(t, file)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, FileName)
			list := file + "list"
			put(t, dir, "10-a.conflist", primary("a", "a"))
			s, log := controllerAt(t, dir, `{}`), &bytes.Buffer{}
			s.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))
			s.sync()
			install(t, file)
			made := read(t, list)
			for range 3 {
				s.sync()
			}
			if exists(file) || read(t, list) != made || s.Ready() != nil {
				t.Fatalf("our file is there: %v, ready: %v, the list is\n%s", exists(file), s.Ready(), read(t, list))
			}
			if n := strings.Count(log.String(), "istio-cni"); n != 1 {
				t.Errorf("%d records, want one:\n%s", n, log)
			}
			put(t, dir, "10-a.conflist", `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"a","capabilities":{"bandwidth":true}}]}`)
			s.sync()
			want := strings.Replace(made, `"portMappings"`, `"bandwidth"`, 1)
			got := read(t, list)
			if exists(file) || !strings.HasSuffix(got, ",\n    "+chainedPlugin+"\n  ]\n}\n") ||
				!strings.HasPrefix(got, "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"k8s-pod-network\",\n  \"plugins\": [\n    {") {
				t.Errorf("the other program's part changed:\n%s", got)
			}
			if l, err := libcni.NetworkConfFromBytes([]byte(got)); err != nil ||
				!l.Plugins[0].Network.Capabilities["bandwidth"] || len(l.Plugins) != 2 {
				t.Errorf("our part did not change: %v\n%s, want as in\n%s", err, got, want)
			}
			again := controllerAt(t, dir, `{}`) // a restart
			again.sync()
			if exists(file) || read(t, list) != got || again.Ready() != nil {
				t.Errorf("after a restart: our file is there: %v, ready: %v\n%s", exists(file), again.Ready(), read(t, list))
			}
			if err := os.Remove(list); err != nil {
				t.Fatal(err)
			}
			again.sync()
			if !exists(file) || again.Ready() != nil {
				t.Errorf("the list is gone, and our file is not back: %v", again.Ready())
			}
		})
	}
}

// TestChainAtTheStart checks that a list which existed before the daemon was installed, made of today's configuration,
// is kept and updated.
func TestChainAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	put(t, dir, "10-a.conflist", primary("a", "a"))
	put(t, dir, FileName+"list", istio(t,
		`{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus-shim","clusterNetwork":"/host/etc/cni/net.d/10-old.conflist","logLevel":"verbose"}`))
	s := controllerAt(t, dir, `{}`)
	runController(t, s)
	eventually.Within(t, waitTimeout, "our configuration in the list", func() bool {
		return s.Ready() == nil && has(file+"list", filepath.Join(dir, "10-a.conflist")) && has(file+"list", chainedPlugin)
	})
	if exists(file) || has(file+"list", "verbose") {
		t.Errorf("our file is there: %v\n%s", exists(file), read(t, file+"list"))
	}
	// The other program writes the list without its plugin. The list is then no chain any more, and our file is written
	// again.
	put(t, dir, FileName+"list", `{"cniVersion":"0.3.1","name":"k8s-pod-network","plugins":[{"type":"multus-shim","clusterNetwork":"/x"}]}`)
	eventually.Within(t, waitTimeout, "our file", func() bool { return exists(file) && s.Ready() == nil })
}

// TestChainThatIsOld checks that a list that is older than our file stays shadowed, because it may be leftover state,
// and that the log reports this.
func TestChainThatIsOld(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	put(t, dir, "10-a.conflist", primary("a", "a"))
	s, log := controllerAt(t, dir, `{}`), &bytes.Buffer{}
	s.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))
	s.sync()
	made := istio(t, read(t, file))
	put(t, dir, FileName+"list", made)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file+"list", old, old); err != nil {
		t.Fatal(err)
	}
	s.sync()
	if !exists(file) || read(t, file+"list") != made || s.Ready() != nil {
		t.Errorf("our file is there: %v, ready: %v", exists(file), s.Ready())
	}
	if !strings.Contains(log.String(), "are not called") || !strings.Contains(log.String(), "istio-cni") {
		t.Errorf("log:\n%s", log)
	}
	if err := os.Remove(file); err != nil { // as the log advises
		t.Fatal(err)
	}
	s.sync()
	if exists(file) || s.Ready() != nil {
		t.Errorf("our file is back: %v", s.Ready())
	}
}

// TestChained checks which lists are chains of our configuration.
func TestChained(t *testing.T) {
	t.Parallel()
	const own = `{"cniVersion":"1.0.0","name":"m","type":"multus-shim","clusterNetwork":"/a"}`
	const pair = `{"cniVersion":"1.0.0","name":"m","plugins":[{"type":"multus","clusterNetwork":"/a"},{"type":"tuning","mtu":1}]}`
	list := func(plugins string) string { return `{"cniVersion":"0.3.1","name":"n","plugins":[` + plugins + `]}` }
	for name, tc := range map[string]struct {
		own, list string
		want      string // "" for no chain
	}{
		"the same": {
			own, list(`{"clusterNetwork":"/a","type":"multus-shim"},{"type":"x"}`),
			list(`{"clusterNetwork":"/a","type":"multus-shim"},{"type":"x"}`),
		},
		"with name, version": {
			own, list(
				`{"name":"m","cniVersion":"0.4.0","clusterNetwork":"/a","type":"multus-shim"},{"type":"x"}`),
			list(`{"name":"m","cniVersion":"0.4.0","clusterNetwork":"/a","type":"multus-shim"},{"type":"x"}`),
		},
		"another one": {
			own, list(`{"type":"multus-shim","clusterNetwork":"/b"},{"type":"x"},{"type":"y"}`),
			list(`{"clusterNetwork":"/a","type":"multus-shim"},{"type":"x"},{"type":"y"}`),
		},
		"thin": {
			own, list(`{"type":"multus","delegates":[{"type":"z"}]},{"type":"x"}`),
			list(`{"clusterNetwork":"/a","type":"multus-shim"},{"type":"x"}`),
		},
		"our plugin twice": {
			pair, list(`{"type":"multus","clusterNetwork":"/b"},{"type":"tuning","mtu":2},{"type":"x"}`),
			list(`{"clusterNetwork":"/a","type":"multus"},{"mtu":1,"type":"tuning"},{"type":"x"}`),
		},
		"no plugin of another program":       {own, list(`{"type":"multus-shim"}`), ""},
		"only our plugin, twice":             {pair, list(`{"type":"multus"},{"type":"tuning"}`), ""},
		"our plugin is not first":            {own, list(`{"type":"x"},{"type":"multus-shim"}`), ""},
		"a second plugin of another type":    {pair, list(`{"type":"multus"},{"type":"x"},{"type":"tuning"}`), ""},
		"without multus":                     {own, list(`{"type":"x"},{"type":"y"}`), ""},
		"a plugin configuration, not a list": {own, own, ""},
		"an empty list":                      {own, list(``), ""},
		"without a name":                     {own, `{"cniVersion":"0.3.1","plugins":[{"type":"multus-shim"},{"type":"x"}]}`, ""},
		"a plugin without a type":            {own, list(`{"type":"multus-shim"},{}`), ""},
		"half written":                       {own, `{"cniVersion":"0.3.1","name":"n","plugins":[{"type":"multus-shim"},{"ty`, ""},
		"not JSON":                           {own, `x`, ""},
	} {
		want, others := chained([]byte(tc.list), []byte(tc.own))
		if string(want) != tc.want || (len(others) == 0) != (tc.want == "") {
			t.Errorf("%s: %s %v, want %s", name, want, others, tc.want)
		}
	}
}

// FuzzChained checks that the plugins of the other program keep their bytes, and that the result is as requested, for
// any list.
func FuzzChained(f *testing.F) {
	f.Add(`{"cniVersion":"0.3.1","name":"n","plugins":[{"type":"multus-shim"},` + chainedPlugin + `]}`)
	f.Add("{\"plugins\" : [ {\"type\":\"multus\"}\t,{\"type\":\"x\"} ],\"name\":\"\\u006e\"}")
	f.Add(`{"name":"n","plugins":[{"type":"y"}],"plugins":[{"type":"multus"},{"type":"x"}]}`)
	own := []byte(`{"cniVersion":"1.0.0","name":"m","type":"multus-shim","clusterNetwork":"/a"}`)
	f.Fuzz(func(t *testing.T, list string) {
		want, others := chained([]byte(list), own)
		if want == nil {
			return
		}
		again, _ := chained(want, own)
		if !bytes.Equal(again, want) {
			t.Errorf("not stable:\n%s\n%s", want, again)
		}
		l, err := libcni.NetworkConfFromBytes(want)
		if err != nil || len(l.Plugins) != len(others)+1 {
			t.Fatal(fmt.Errorf("%w: %s", err, want))
		}
		before, err := elements([]byte(list))
		if err != nil {
			t.Fatal(err)
		}
		if tail := list[before[0].end:]; !bytes.HasSuffix(want, []byte(tail)) {
			t.Errorf("the rest changed:\n%s\n%s", list, want)
		}
	})
}
