package execute

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"multus/internal/cniconf"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
)

// node is a state directory and a directory of plugins. The plugins append "<type> <command> <prevResult?>" to a log,
// store their input, and run the script in the file <type>.do.
type node struct {
	dir string
	run *Runner
}

const logging = `
me=$(basename $0); dir=$(dirname $0)
cat > $dir/$me.$CNI_COMMAND.in
env > $dir/$me.$CNI_COMMAND.env
prev=; grep -q prevResult $dir/$me.$CNI_COMMAND.in && prev=" prevResult"
echo "$me $CNI_COMMAND$prev" >> $dir/log
test -e $dir/$me.do && . $dir/$me.do
test $CNI_COMMAND = ADD && echo "{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"$CNI_IFNAME\"}]}"
exit 0`

func newNode(t *testing.T, plugins ...string) *node {
	t.Helper()
	n := &node{dir: t.TempDir()}
	for _, p := range plugins {
		script(t, filepath.Join(n.dir, p), logging)
	}
	n.run = New(Options{
		BinDir: n.dir, Path: "/nonexistent:" + n.dir + "::" + os.Getenv("PATH"), StateDir: filepath.Join(n.dir, "state"),
		Log: slog.New(slog.DiscardHandler),
	})
	return n
}

// add attaches a network and clears the log.
func (n *node) add(t *testing.T, p *ledger.Record, a *ledger.Attachment) {
	t.Helper()
	if _, _, err := n.run.Add(t.Context(), p, a); err != nil {
		t.Fatal(err)
	}
	n.called(t)
}

func (n *node) does(t *testing.T, plugin, what string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, plugin+".do"), []byte(what), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (n *node) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// called returns the log and clears it.
func (n *node) called(t *testing.T) string {
	t.Helper()
	log := n.read(t, "log")
	_ = os.Remove(filepath.Join(n.dir, "log"))
	return strings.ReplaceAll(strings.TrimSpace(log), "\n", ", ")
}

func attachment(t *testing.T, conf string) (*ledger.Record, *ledger.Attachment) {
	t.Helper()
	l, err := cniconf.Parse([]byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	a := ledger.Attachment{
		Name: "ns/n", IfName: "net1", Config: l, Args: request.Args{{"K8S_POD_NAME", "p"}, {"MAC", "m"}},
		RuntimeConfig: map[string]json.RawMessage{
			"mac": json.RawMessage(`"02:00:00:00:00:01"`),
			"ips": json.RawMessage(`["10.0.0.2"]`), "big": json.RawMessage(`{"n":9007199254740993}`),
		},
	}
	return &ledger.Record{ContainerID: "c0ffee", Netns: "/run/netns/x", Attachments: []ledger.Attachment{a}}, &a
}

const two = `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a","capabilities":{"mac":true,"big":true}},{"type":"b","x":1}]}`

// TestAddDel checks what delegates get at ADD, CHECK and DEL (behaviour F62, K2, K3, C65), the order within a list
// (behaviour K5), and libcni's cache (behaviour D84).
func TestAddDel(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	p, a := attachment(t, two)
	res, begun, err := n.run.Add(t.Context(), p, a)
	if err != nil || !begun || res.Version() != "1.0.0" {
		t.Fatalf("%v, %t, %v", res, begun, err)
	}
	if err := n.run.Check(t.Context(), p, a); err != nil {
		t.Error(err)
	}
	cache := filepath.Join(n.dir, "state", "results", "n-c0ffee-net1")
	if info, err := os.Stat(cache); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("D84: %v", err)
	}
	if err := n.run.Del(t.Context(), p, a); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(cache); err == nil {
		t.Error("D84: the result outlives DEL")
	}
	if diff := cmp.Diff("a ADD, b ADD prevResult, a CHECK prevResult, b CHECK prevResult, b DEL prevResult, a DEL "+
		"prevResult", n.called(t)); diff != "" {
		t.Errorf("K5 (-want +got):\n%s", diff)
	}
	var in struct {
		CNIVersion, Name, Type string
		RuntimeConfig          map[string]json.RawMessage
	}
	for _, verb := range []string{"ADD", "CHECK", "DEL"} {
		if err := json.Unmarshal([]byte(n.read(t, "a."+verb+".in")), &in); err != nil {
			t.Fatal(err)
		}
		if in.CNIVersion != "1.0.0" || in.Name != "n" || in.Type != "a" ||
			string(in.RuntimeConfig["mac"]) != `"02:00:00:00:00:01"` || in.RuntimeConfig["ips"] != nil {
			t.Errorf("K3, C65 at %s: %s", verb, n.read(t, "a."+verb+".in"))
		}
		env := "\n" + n.read(t, "a."+verb+".env")
		for _, want := range []string{
			"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c0ffee", "CNI_NETNS=/run/netns/x",
			"CNI_IFNAME=net1", "CNI_ARGS=K8S_POD_NAME=p;MAC=m", "PATH=" + os.Getenv("PATH"),
			"CNI_PATH=" + n.dir + ":/nonexistent:",
		} {
			if !strings.Contains(env, "\n"+want) {
				t.Errorf("K2 at %s: no %s in %s", verb, want, env)
			}
		}
	}
	if strings.Contains(n.read(t, "b.ADD.in"), "runtimeConfig") {
		t.Error("C65: a plugin that declares nothing gets runtimeConfig")
	}
}

// TestAddFails checks which failures need a DEL (behaviour D28, D29): those after which a delegate was executed.
func TestAddFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, conf string
		missing    string
		does       map[string]string
		begun      bool
		called     string
		want       []string
		code       uint
	}{
		{"K1 no binary", two, "a", nil, false, "", []string{`failed to find plugin "a" in path [`}, 0},
		{
			"K5 the second of a list", two, "",
			map[string]string{"b": `echo '{"code":101,"msg":"boom"}'; exit 1`},
			true,
			"a ADD, b ADD prevResult",
			[]string{`plugin type="b" failed (add): boom`},
			101,
		},
		{"K1 no binary of the second", two, "b", nil, true, "a ADD", []string{`failed to find plugin "b"`}, 0},
		{
			"K10 a bad network name", `{"cniVersion":"1.0.0","name":"not good","type":"a"}`, "", nil, false, "",
			[]string{"network name"},
			0,
		},
		{
			"garbage for a result", two, "",
			map[string]string{"a": "echo Hello; exit 0"},
			true, "a ADD",
			[]string{`plugin type="a" failed (add): `},
			0,
		},
		{
			"K4 a result of an unknown version", two, "",
			map[string]string{"a": `echo '{"cniVersion":"9.0.0"}'; exit 0`},
			true,
			"a ADD",
			[]string{"9.0.0"},
			0,
		},
	}
	for _, tc := range tests {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "b")
			_ = os.Remove(filepath.Join(n.dir, tc.missing, "x"))
			if tc.missing != "" {
				if err := os.Remove(filepath.Join(n.dir, tc.missing)); err != nil {
					t.Fatal(err)
				}
			}
			for p, what := range tc.does {
				n.does(t, p, what)
			}
			p, a := attachment(t, tc.conf)
			res, begun, err := n.run.Add(t.Context(), p, a)
			if err == nil || res != nil || begun != tc.begun {
				t.Fatalf("%v, begun %t, %v", res, begun, err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not contain %q", err, want)
				}
			}
			var ce *types.Error
			if tc.code != 0 && (!errors.As(err, &ce) || ce.Code != tc.code) {
				t.Errorf("D5: code of %v", err)
			}
			if got := n.called(t); got != tc.called {
				t.Errorf("called %q, want %q", got, tc.called)
			}
			if _, err := os.Stat(filepath.Join(n.dir, "state", "results", "n-c0ffee-net1")); err == nil {
				t.Error("K6: a failed ADD leaves a result")
			}
		})
	}
}

// TestDelEdges checks a DEL that does not follow a successful ADD.
func TestDelEdges(t *testing.T) {
	t.Parallel()
	t.Run("K6 never added", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, "a", "b")
		p, a := attachment(t, two)
		if err := n.run.Del(t.Context(), p, a); err != nil || n.called(t) != "b DEL, a DEL" {
			t.Error(err)
		}
	})
	t.Run("never added, a plugin missing", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, "b")
		p, a := attachment(t, two)
		noTrace, ok := errors.AsType[*NoTraceError](n.run.Del(t.Context(), p, a))
		if !ok || noTrace.IsFinal() || noTrace.Killed() || n.called(t) != "b DEL" {
			t.Errorf("%v", noTrace)
		}
	})
	t.Run("never added, a plugin that fails (multus-cni#669)", func(t *testing.T) {
		t.Parallel()
		for does, want := range map[string][2]bool{ // final, killed
			`echo '{"code":999,"msg":"no interface"}'; exit 1`: {true, false},
			`exit 1`:        {false, false},
			`kill -9 $$`:    {false, true},
			`kill -SEGV $$`: {false, false},
		} {
			n := newNode(t, "a", "b")
			n.does(t, "b", does)
			p, a := attachment(t, two)
			noTrace, ok := errors.AsType[*NoTraceError](n.run.Del(t.Context(), p, a))
			if !ok || noTrace.IsFinal() != want[0] || noTrace.Killed() != want[1] {
				t.Errorf("%s: %v", does, noTrace)
			}
		}
	})
	t.Run("K5 added, a plugin missing: the others are deleted, and it is an error until the plugin is back",
		func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "b")
			p, a := attachment(t, two)
			n.add(t, p, a)
			if err := os.Remove(filepath.Join(n.dir, "b")); err != nil {
				t.Fatal(err)
			}
			if err := n.run.Del(t.Context(), p, a); err == nil || !strings.Contains(err.Error(), `failed to find plugin "b"`) ||
				n.called(t) != "a DEL prevResult" {
				t.Errorf("%v", err)
			}
			if err := n.run.Del(t.Context(), p, a); err == nil {
				t.Error("known again: the first DEL removes libcni's result, and the second takes the network for one that was " +
					"never added: what b holds is lost")
			}
		})
	t.Run("K7 a result that cannot be read", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, "a", "b")
		p, a := attachment(t, two)
		n.add(t, p, a)
		if err := os.WriteFile(filepath.Join(n.dir, "state", "results", "n-c0ffee-net1"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.run.Del(t.Context(), p, a); err != nil || n.called(t) != "b DEL, a DEL" {
			t.Error(err)
		}
	})
	t.Run("K5 a plugin that fails keeps the result for the next DEL, and the others are deleted", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, "a", "b")
		p, a := attachment(t, two)
		n.add(t, p, a)
		n.does(t, "b", `test $CNI_COMMAND = DEL && { echo '{"code":11,"msg":"later"}'; exit 1; }`)
		if err := n.run.Del(t.Context(), p, a); err == nil ||
			!strings.Contains(err.Error(), `plugin type="b" failed (delete): later`) {
			t.Error(err)
		}
		n.does(t, "b", "")
		if err := n.run.Del(t.Context(), p, a); err != nil {
			t.Error(err)
		}
		if got := n.called(t); got != "b DEL prevResult, a DEL prevResult, b DEL prevResult, a DEL prevResult" {
			t.Error(got)
		}
	})
}

// TestDelChain checks that all plugins of a list get DEL, whatever one of them returns, and that DEL succeeds only if
// nothing can remain (today's Multus leaves what the others hold).
func TestDelChain(t *testing.T) {
	t.Parallel()
	const chain = `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"a"},{"type":"b"},{"type":"c"}]}`
	refuse := `echo '{"code":1,"msg":"incompatible CNI versions"}'; exit 1`
	for _, tc := range []struct {
		name, plugin, does string
		added              bool
		called, left       string // left is the expected error, "" for success
	}{
		{"the last one refuses the version", "c", refuse, false, "c DEL, b DEL, a DEL", ""},
		{"one in the middle refuses the version", "b", refuse, false, "c DEL, b DEL, a DEL", ""},
		{"the first one refuses the version", "a", refuse, false, "c DEL, b DEL, a DEL", ""},
		{
			"one refuses the version that it accepted at ADD", "c", refuse, true,
			"c DEL prevResult, b DEL prevResult, a DEL prevResult", "incompatible",
		},
		{
			"the last one fails", "c", `echo '{"code":999,"msg":"no such chain"}'; exit 1`, true,
			"c DEL prevResult, b DEL prevResult, a DEL prevResult", `type="c" failed (delete): no such chain`,
		},
		{
			"one in the middle crashes", "b", "exit 2", true, "c DEL prevResult, b DEL prevResult, a DEL prevResult",
			`type="b"`,
		},
		{
			"the first one fails", "a", `echo '{"code":11,"msg":"later"}'; exit 1`, true,
			"c DEL prevResult, b DEL prevResult, a DEL prevResult", "later",
		},
		{"one fails after an ADD that failed", "b", "exit 2", false, "c DEL, b DEL, a DEL", `type="b"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "a", "b", "c")
			p, a := attachment(t, chain)
			if tc.added {
				n.add(t, p, a)
			}
			n.does(t, tc.plugin, tc.does)
			err := n.run.Del(t.Context(), p, a)
			if (err == nil) != (tc.left == "") || err != nil && !strings.Contains(err.Error(), tc.left) {
				t.Errorf("DEL: %v", err)
			}
			if got := n.called(t); got != tc.called {
				t.Errorf("called: %s", got)
			}
			_, err = os.Stat(filepath.Join(n.dir, "state", "results", "n-c0ffee-net1"))
			if kept := err == nil; kept != (tc.added && tc.left != "") {
				t.Errorf("the result of an attachment that is not deleted: kept %t", kept)
			}
		})
	}
}

// TestDelOfNoVersion checks that a network that was recorded with an invalid cniVersion can be deleted.
func TestDelOfNoVersion(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"v0.3.1", "1.0.0\\nFAKE", "one", "1.0.0.0"} {
		n := newNode(t, "a", "b")
		p, a := attachment(t, fmt.Sprintf(`{"cniVersion":"%s","name":"n","plugins":[{"type":"a"},{"type":"b"}]}`, v))
		if err := n.run.Del(t.Context(), p, a); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		if got := n.called(t); got != "b DEL, a DEL" {
			t.Errorf("%s: called: %s", v, got)
		}
	}
}

// TestIsFinal checks that an error is final only if every plugin that failed gave a final reason.
func TestIsFinal(t *testing.T) {
	t.Parallel()
	final, later := &types.Error{Code: 999, Msg: "no such link"}, &types.Error{Code: types.ErrTryAgainLater, Msg: "busy"}
	for _, tc := range []struct {
		err               error
		answered, refusal bool
	}{
		{nil, false, true},
		{final, true, true},
		{later, false, false},
		{errors.New("crash"), false, true},
		{fmt.Errorf("x: %w", final), true, true},
		{fmt.Errorf("x: %w", errKilled), false, false},
		{errors.Join(final, final), true, true},
		{errors.Join(final, later), false, false},
		{errors.Join(final, errors.New("crash")), false, true},
		{errors.Join(fmt.Errorf("x: %w", errors.Join(final, errKilled))), false, false},
		{&NoTraceError{Err: errors.Join(final, final)}, true, true},
		{&types.Error{Code: 100, Msg: "remove 10.0.0.2: Read-only file system"}, false, true},
		{&types.Error{Code: 100, Msg: "no free address", Details: "open lock: too many open files in system"}, false, true},
		{errors.Join(final, &types.Error{Code: 999, Msg: "write: no space left on device"}), false, true},
	} {
		if got := IsFinal(tc.err); got != tc.answered {
			t.Errorf("Answered(%v) = %t", tc.err, got)
		}
		if got := IsRefusal(tc.err); got != tc.refusal {
			t.Errorf("IsRefusal(%v) = %t", tc.err, got)
		}
	}
}

// TestVersion checks that a network without a version gets one that all its plugins support (behaviour B5).
func TestVersion(t *testing.T) {
	t.Parallel()
	n := newNode(t, "old", "new", "silent")
	script(t, filepath.Join(n.dir, "silent"), `exit 1`)
	script(t, filepath.Join(n.dir, "old"), `echo '{"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.3.1","0.4.0"]}'`)
	script(t, filepath.Join(n.dir, "new"),
		`echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'`)
	for _, tc := range []struct{ conf, limit, want string }{
		{`{"name":"n","type":"old"}`, "1.1.0", "0.4.0"},
		{`{"name":"n","type":"old"}`, "0.3.1", "0.3.1"},
		{`{"name":"n","type":"new"}`, "1.1.0", "1.1.0"},
		{`{"name":"n","type":"new"}`, "1.0.0", "1.0.0"},
		{`{"name":"n","plugins":[{"type":"new"},{"type":"old"}]}`, "1.1.0", "0.4.0"},
		{`{"name":"n","type":"new"}`, "0.2.0", ""},
		{`{"name":"n","type":"new","ipam":{"type":"old"}}`, "1.1.0", "0.4.0"},
		{`{"name":"n","type":"new","IPAM":{"Type":"old"}}`, "1.1.0", "0.4.0"},
		{`{"name":"n","plugins":[{"type":"new"},{"type":"new","ipam":{"type":"old"}}]}`, "1.1.0", "0.4.0"},
		{`{"name":"n","type":"new","ipam":{"type":"new"}}`, "1.1.0", "1.1.0"},
		{`{"name":"n","type":"new","ipam":{}}`, "1.1.0", "1.1.0"},
		{`{"name":"n","type":"new","ipam":{"type":"silent"}}`, "1.1.0", "1.1.0"},
		{`{"name":"n","type":"missing"}`, "1.0.0", ""},
	} {
		l, err := cniconf.Parse([]byte(tc.conf))
		if err != nil {
			t.Fatal(err)
		}
		got, err := n.run.Version(t.Context(), l, tc.limit)
		if got != tc.want || (err != nil) != strings.Contains(tc.conf, "missing") {
			t.Errorf("%s below %s: %q, %v, want %q", tc.conf, tc.limit, got, err, tc.want)
		}
	}
}

// TestOtherVerbs checks that CHECK of an old configuration calls no plugin (behaviour D47), that STATUS stops at the
// first error and keeps it (behaviour D93, D94), and that GC gets the list of its own attachments (behaviour D104).
func TestOtherVerbs(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a", "b")
	p, a := attachment(t, `{"cniVersion":"0.3.1","name":"n","type":"a"}`)
	if err := n.run.Check(t.Context(), p, a); err != nil || n.called(t) != "" {
		t.Errorf("CHECK of 0.3.1: %v", err)
	}
	if err := n.run.Status(t.Context(), a); err != nil || n.called(t) != "" {
		t.Errorf("STATUS of 0.3.1: %v", err)
	}
	_, a = attachment(t, strings.Replace(two, "1.0.0", "1.1.0", 1))
	if err := n.run.Status(t.Context(), a); err != nil || n.called(t) != "a STATUS, b STATUS" {
		t.Errorf("STATUS: %v", err)
	}
	if err := n.run.GC(t.Context(), a.Config, []types.GCAttachment{{ContainerID: "c", IfName: "net1"}}); err != nil ||
		n.called(t) != "a GC, b GC" {
		t.Errorf("GC: %v", err)
	}
	if in := n.read(t, "a.GC.in"); !strings.Contains(in,
		`"cni.dev/valid-attachments":[{"containerID":"c","ifname":"net1"}]`) {
		t.Errorf("GC: %s", in)
	}
	if err := n.run.GC(t.Context(), a.Config, nil); err != nil ||
		!strings.Contains(n.read(t, "a.GC.in"), `"cni.dev/valid-attachments":[]`) {
		t.Errorf("GC without attachments: %v: %s", err, n.read(t, "a.GC.in"))
	}
	n.called(t)
	n.does(t, "a", `echo '{"code":50,"msg":"no","details":"d"}'; exit 1`)
	err := n.run.Status(t.Context(), a)
	var ce *types.Error
	if !errors.As(err, &ce) || ce.Code != 50 || ce.Details != "d" || n.called(t) != "a STATUS" {
		t.Errorf("STATUS that fails: %v", err)
	}
}
