package plan_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"multus/internal/cniconf"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// tenant is what a user with write access to definitions and pods of one namespace passes to the resolver.
type tenant struct {
	what, conf, networks, config string
	// files are the files of the node by name.
	files map[string]string
	want  string
}

// TestLimits checks that a configuration, an annotation or a file of moderate size results neither in a plan of
// hundreds of megabytes nor in one that a DEL cannot delete in time. The error must be returned before the memory is
// allocated.
func TestLimits(t *testing.T) { //nolint:paralleltest // it measures the allocations of the process
	list := func(n int) string { return strings.TrimSuffix(strings.Repeat(`{"type":"a"},`, n), ",") }
	large := strings.Repeat("x", 100<<10)
	tooMany := fmt.Sprintf("at most %d are accepted", cniconf.MaxPlugins)
	auxiliary := map[string]string{}
	for i := range cniconf.MaxPlugins {
		auxiliary[fmt.Sprintf("files/chain/%03d.conf", i)] = `{"type":"a"}`
	}
	for _, tc := range []tenant{
		{
			what:     "cni-args for every plugin",
			networks: `[{"name":"net","cni-args":{"a":"` + large + `"}},{"name":"net","cni-args":{"a":"` + large + `"}}]`,
			config:   `{"name":"n","plugins":[` + list(cniconf.MaxPlugins) + `]}`, want: "bytes together",
		},
		{
			what:     "cni-args with a key that is escaped",
			networks: `[{"name":"net","cni-args":{"` + strings.Repeat("<", 100<<10) + `":1}}]`,
			config:   `{"name":"n","plugins":[` + list(cniconf.MaxPlugins) + `]}`, want: "bytes together",
		},
		{
			what: "cni-args for 2,000 plugins", networks: `[{"name":"net","cni-args":{"a":"` + large + `"}}]`,
			config: `{"name":"n","plugins":[` + list(2000) + `]}`, want: "it has 2000 plugins, " + tooMany,
		},
		{
			what: "a large definition many times", networks: strings.TrimSuffix(strings.Repeat(`net,`, 60), ","),
			config: `{"name":"n","type":"a","x":"` + large + `"}`, want: "bytes together",
		},
		{
			what: "plugins of a definition", networks: "net", config: `{"name":"n","plugins":[` + list(16_379) + `]}`,
			want: tooMany,
		},
		{
			what:  "plugins of the cluster network's file",
			files: map[string]string{"files/cluster.conflist": `{"name":"c","plugins":[` + list(cniconf.MaxPlugins+1) + `]}`},
			conf:  `{"clusterNetwork":"$DIR/files/cluster.conflist"}`, want: "it has 33 plugins, " + tooMany,
		},
		{
			what:  "plugins of a sub-directory",
			files: map[string]string{"files/cluster.conflist": `{"name":"chain","plugins":[{"type":"a"}]}`},
			conf:  `{"clusterNetwork":"$DIR/files/cluster.conflist"}`, want: tooMany,
		},
		{what: "plugins of the auxiliary chain", conf: `{"auxiliaryCNIChainName":"chain"}`, want: tooMany},
		{
			what:  "plugins of a file found by name",
			files: map[string]string{"files/conf.d/x.conflist": `{"name":"x","plugins":[` + list(cniconf.MaxPlugins+1) + `]}`},
			conf:  `{"clusterNetwork":"x"}`, want: tooMany,
		},
		{
			what: "plugins of an inline delegate",
			conf: `{"clusterNetwork":null,"delegates":[{"name":"c","plugins":[` + list(cniconf.MaxPlugins+1) + `]}]}`,
			want: tooMany,
		},
	} {
		t.Run(tc.what, func(t *testing.T) { //nolint:paralleltest // as above
			a := &archive{files: []member{
				{"conf.json", tc.conf},
				{"annotations.json", fmt.Sprintf(`{"k8s.v1.cni.cncf.io/networks": %q}`, tc.networks)},
				{"networks.yaml", fmt.Sprintf(
					"kind: NetworkAttachmentDefinition\napiVersion: k8s.cni.cncf.io/v1\nmetadata: {name: net, namespace: "+
						"team-a}\nspec:\n  config: |-\n    %s\n", tc.config)},
			}}
			for _, files := range []map[string]string{auxiliary, tc.files} {
				for name, data := range files {
					a.files = append(a.files, member{name, data})
				}
			}
			b := inMemory(newBench(t, a))
			_, _ = b.resolver.Networks.Network(t.Context(), plan.Ref{Namespace: "team-a", Name: "net"})
			took, err := allocated(func() error { _, err := b.resolver.Plan(t.Context(), b.req, b.conf); return err })
			var f *fault.Error
			if !errors.As(err, &f) || f.Code != fault.BadConfig || f.Next == "" || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q and code %d", err, tc.want, fault.BadConfig)
			}
			const most = 48 << 20
			if took > most {
				t.Errorf("%d bytes were allocated before the error, want at most %d", took, most)
			}
		})
	}
}

// allocated returns how many bytes a function allocates.
func allocated(f func() error) (bytes uint64, err error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, err
}

// TestMaxPlugins checks that a list with the maximum number of plugins is attached, and that LoadFile, with which the
// daemon selects the cluster network, agrees with ADD.
func TestMaxPlugins(t *testing.T) {
	t.Parallel()
	for n, ok := range map[int]bool{cniconf.MaxPlugins: true, cniconf.MaxPlugins + 1: false} {
		conf := `{"name":"c","plugins":[` + strings.TrimSuffix(strings.Repeat(`{"type":"a"},`, n), ",") + `]}`
		b := newBench(t, &archive{files: []member{
			{"files/c.conflist", conf},
			{"conf.json", `{"clusterNetwork":"$DIR/files/c.conflist"}`},
		}})
		for _, verb := range []string{request.Add, request.Status} {
			b.req.Command = verb
			if _, err := b.resolver.Plan(t.Context(), b.req, b.conf); (err == nil) != ok {
				t.Errorf("%s with %d plugins: %v", verb, n, err)
			}
		}
		if _, err := cniconf.LoadFile(filepath.Join(b.dir, "files/c.conflist")); (err == nil) != ok {
			t.Errorf("LoadFile with %d plugins: %v", n, err)
		}
	}
}
