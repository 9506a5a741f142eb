package file

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

func write(tb testing.TB, dir, name, content string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// source returns a source of the given files: name, content, name, content.
func source(tb testing.TB, files ...string) (*Source, Options) {
	tb.Helper()
	o := Options{Dir: tb.TempDir(), StateDir: filepath.Join(tb.TempDir(), "state")}
	for i := 0; i < len(files); i += 2 {
		write(tb, o.Dir, files[i], files[i+1])
	}
	return New(o), o
}

func network(namespace, name, config string) string {
	return fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata:\n  name: %s\n  "+
		"namespace: %q\nspec:\n  config: %q\n", name, namespace, config)
}

const storage = `apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: storage
  annotations:
    k8s.v1.cni.cncf.io/resourceName: vendor.example/nic
spec:
  config: |
    {
      "type": "macvlan"
    }
`

const pod = `apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: team-a, uid: uid-1, annotations: {k8s.v1.cni.cncf.io/networks: storage}}
spec: {containers: [{name: app, image: registry.example/app}]}
`

func ref(namespace, name string) plan.Ref { return plan.Ref{Namespace: namespace, Name: name} }

func TestNetwork(t *testing.T) {
	t.Parallel()
	many := "# heading\n%YAML 1.2\n---\n" + storage + "--- # second\n" + network("team-a", "b", "{}") +
		"...\n---\nkind: ConfigMap\nspec: text\n---\n"
	list := "apiVersion: v1\nkind: List\nitems:\n- " +
		strings.ReplaceAll(strings.TrimSpace(network("n", "one", "1")), "\n", "\n  ") +
		"\n- " + strings.ReplaceAll(strings.TrimSpace(network("n", "two", "2")), "\n", "\n  ") + "\n"
	json := "{\n\t\"apiVersion\": \"k8s.cni.cncf.io/v1\", \"kind\": \"NetworkAttachmentDefinition\",\n\t\"metadata\": " +
		"{\"name\": \"j\"}}"
	tests := []struct {
		name, file, content string
		ref                 plan.Ref
		want                plan.Definition
	}{
		{
			"namespace defaults, bytes kept", "a.yaml", storage, ref("default", "storage"),
			plan.Definition{Config: "{\n  \"type\": \"macvlan\"\n}\n", ResourceName: "vendor.example/nic"},
		},
		{
			"first of many", "a.yml", many, ref("default", "storage"),
			plan.Definition{Config: "{\n  \"type\": \"macvlan\"\n}\n", ResourceName: "vendor.example/nic"},
		},
		{"second of many", "a.yml", many, ref("team-a", "b"), plan.Definition{Config: "{}"}},
		{
			"line ends of Windows, byte order mark", "a.yaml",
			"\xef\xbb\xbf" + strings.ReplaceAll("---\n"+network("n", "x", "c"), "\n", "\r\n"), ref("n", "x"),
			plan.Definition{Config: "c"},
		},
		{"list of kubectl", "a.yaml", list, ref("n", "two"), plan.Definition{Config: "2"}},
		{"JSON with tabs, no spec", "a.json", json, ref("default", "j"), plan.Definition{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := source(t, tt.file, tt.content)
			tt.want.Ref = tt.ref
			if got, err := s.Network(t.Context(), tt.ref); err != nil || *got != tt.want {
				t.Errorf("Network = %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestPod(t *testing.T) {
	t.Parallel()
	s, _ := source(t, "pods.yaml", pod)
	want := &plan.Pod{
		Ref: ref("team-a", "web-0"), UID: "uid-1",
		Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": "storage"},
	}
	for range 2 {
		got, err := s.Pod(t.Context(), want.Ref)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("Pod = %+v, %v", got, err)
		}
		got.Annotations["k8s.v1.cni.cncf.io/networks"] = "changed by the caller"
	}
	if _, err := s.Network(t.Context(), want.Ref); !errors.Is(err, plan.ErrNotFound) {
		t.Errorf("a pod is read as a network: %v", err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	good, broken := network("default", "x", "c"), "kind: [\n"
	tests := []struct {
		name     string
		files    []string
		notFound bool
		want     []string // parts of the message, none for success
	}{
		{"empty directory", nil, true, []string{"default/x"}},
		{"another namespace", []string{"a.yaml", network("team-a", "x", "c")}, true, []string{"not found"}},
		{"ignored files", []string{"a.txt", good, ".b.yaml", good, "c.yaml~", good, "d", good}, true, []string{"not found"}},
		{"a broken document of another name", []string{"a.yaml", broken, "b.yaml", broken + "---\n" + good}, false, nil},
		{
			"a broken document whose name is unknown",
			[]string{"a.yaml", good + "---\n" + broken, "b.yaml", "---\n---\n"},
			false, nil,
		},
		{
			"names file and document",
			[]string{"a.yaml", network("n", "y", "c") + "---\n" + broken},
			false,
			[]string{"a.yaml: document 2:"},
		},
		{
			"empty documents do not count",
			[]string{"a.yaml", "---\n# nothing\n---\n" + network("n", "y", "c") + "---\n\n---\n" + broken},
			false,
			[]string{"a.yaml: document 2:"},
		},
		{
			"names all broken files",
			[]string{"a.yaml", broken, "b.json", "{"},
			false,
			[]string{"a.yaml: document 1", "b.json: document 1"},
		},
		{
			"twice in one file",
			[]string{"a.yaml", good + "---\n" + good},
			false,
			[]string{"a.yaml (document 1)", "a.yaml (document 2)", "remove"},
		},
		{
			"twice in two files",
			[]string{"a.yaml", good, "b.yml", good},
			false,
			[]string{"a.yaml (document 1)", "b.yml (document 1)", "remove"},
		},
		{"duplicate key", []string{"a.yaml", good + "kind: Pod\n"}, false, []string{"a.yaml: document 1", "kind"}},
		{
			"wrong version",
			[]string{"a.yaml", strings.Replace(good, "/v1", "/v2", 1)},
			false,
			[]string{`"k8s.cni.cncf.io/v2"`, `must be "k8s.cni.cncf.io/v1"`},
		},
		{"no name", []string{"a.yaml", strings.Replace(good, "name: x", "name: ''", 1)}, false, []string{"no metadata.name"}},
		{
			"config is not a string",
			[]string{"a.yaml", strings.Replace(good, `config: "c"`, "config: {type: x}", 1)},
			false,
			[]string{"a.yaml: document 1", "config"},
		},
		{"no kind", []string{"a.yaml", "metadata: {name: x}"}, false, []string{"no kind"}},
		{"not an object", []string{"a.yaml", "- x"}, false, []string{"a.yaml: document 1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := source(t, tt.files...)
			_, err := s.Network(t.Context(), ref("default", "x"))
			if (err == nil) != (tt.want == nil) || errors.Is(err, plan.ErrNotFound) != tt.notFound {
				t.Fatalf("error = %v, want not found %v, parts %q", err, tt.notFound, tt.want)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not contain %q", err, part)
				}
			}
		})
	}
}

func TestDirectoryErrors(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{Dir: "/nonexistent"}).Network(t.Context(), ref("n", "x")); err == nil ||
		errors.Is(err, plan.ErrNotFound) || !strings.Contains(err.Error(), "/nonexistent") ||
		!strings.Contains(err.Error(), "create it") {
		t.Errorf("no directory: %v", err)
	}
	s, o := source(t, "good.yaml", storage)
	for name, target := range map[string]string{"gone.yaml": "/nonexistent", "pipe.yaml": "/dev/zero"} {
		if err := os.Symlink(target, filepath.Join(o.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(o.Dir, "dir.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Network(t.Context(), ref("default", "storage")); err != nil {
		t.Errorf("beside odd files: %v", err)
	}
	if _, err := s.Network(t.Context(), ref("default", "x")); err == nil ||
		!strings.Contains(err.Error(), `pipe.yaml": not a regular file`) || strings.Contains(err.Error(), "gone.yaml") {
		t.Errorf("missing, beside odd files: %v", err)
	}
	large, o := source(t)
	write(t, o.Dir, "a.yaml", "#"+strings.Repeat(" ", maxFileSize))
	if _, err := large.Network(t.Context(), ref("default", "x")); err == nil ||
		!strings.Contains(err.Error(), "at most 16777216; split it") {
		t.Errorf("large file: %v", err)
	}
	for _, r := range []plan.Ref{ref("", "x"), ref("n", "")} {
		if _, err := s.Network(t.Context(), r); err == nil || errors.Is(err, plan.ErrNotFound) {
			t.Errorf("%q: %v", r, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Network(ctx, ref("default", "storage")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestFollowsEdits checks that a source reads each change, and does not decode unchanged files again.
func TestFollowsEdits(t *testing.T) {
	t.Parallel()
	s, o := source(t, "a.yaml", network("n", "x", "1"))
	path := filepath.Join(o.Dir, "a.yaml")
	old := time.Now().Add(-time.Hour)
	x := ref("n", "x")
	expect := func(what, want string) {
		t.Helper()
		got, err := s.Network(t.Context(), x)
		if want == "" {
			if !errors.Is(err, plan.ErrNotFound) {
				t.Errorf("%s: %+v, %v, want not found", what, got, err)
			}
			return
		}
		if err != nil || got.Config != want {
			t.Errorf("%s: %+v, %v, want %q", what, got, err, want)
		}
	}
	expect("first", "1")
	// The same size, within one tick of the kernel's clock for file times.
	for i := range 9 {
		write(t, o.Dir, "a.yaml", network("n", "x", fmt.Sprint(i)))
		expect("in place", fmt.Sprint(i))
	}
	write(t, o.Dir, "new", network("n", "x", "r"))
	if err := os.Chtimes(filepath.Join(o.Dir, "new"), old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(o.Dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	expect("replaced", "r")
	write(t, o.Dir, "a.yaml", "kind: [")
	if _, err := s.Network(t.Context(), x); err == nil || errors.Is(err, plan.ErrNotFound) {
		t.Errorf("broken: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("removed", "")
	if len(s.files) != 0 {
		t.Errorf("removed files are kept: %v", s.files)
	}
}

// TestDecodedOnce checks that a settled file is not decoded at each lookup.
func TestDecodedOnce(t *testing.T) {
	t.Parallel()
	s, o := source(t, "a.yaml", network("n", "x", "1"))
	path := filepath.Join(o.Dir, "a.yaml")
	deadline := time.Now().Add(30 * time.Second)
	first := s.refresh(path)
	for !first.settled { // until the file is older than settleTime
		if time.Now().After(deadline) {
			t.Fatal("the file does not settle")
		}
		first = s.refresh(path)
	}
	s.files[path] = first
	if again := s.refresh(path); again != first {
		t.Error("decoded again without a change")
	}
	// A file that has just changed may change again without a new stamp, because the clock for file times is coarse. A
	// time in the future represents such a file, however slow the test is.
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, future, future); err != nil {
		t.Fatal(err)
	}
	s.files[path] = s.refresh(path)
	if again := s.refresh(path); again == s.files[path] {
		t.Error("a file changed just now is trusted")
	}
	s.files[path] = first
	if err := os.Chtimes(path, first.stamp.mtime, first.stamp.mtime); err != nil {
		t.Fatal(err)
	}
	if again := s.refresh(path); again == first {
		t.Error("a change of the change time alone is not seen")
	}
}

func TestSetStatus(t *testing.T) {
	t.Parallel()
	s, o := source(t, "pods.yaml", pod)
	web := request.Pod{Namespace: "team-a", Name: "web-0", UID: "uid-1"}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := New(o).SetStatus(t.Context(), web, fmt.Sprintf("k%d", i), "<v>", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.SetStatus(t.Context(), web, "k0", "new", nil); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(filepath.Join(o.StateDir, "team-a_web-0.json"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 20 || got["k0"] != "new" || got["k1"] != "<v>" {
		t.Errorf("annotations = %v", got)
	}
	write(t, o.StateDir, "team-a_web-0.json", "{damaged")
	if err := s.SetStatus(t.Context(), web, "k", "v", nil); err != nil {
		t.Errorf("damaged state: %v", err)
	}

	other := web
	other.UID = "uid-2"
	if err := s.SetStatus(t.Context(), other, "k", "v", nil); !errors.Is(err, publish.ErrGone) {
		t.Errorf("another UID: %v", err)
	}
	if err := s.SetStatus(t.Context(), request.Pod{Namespace: "n", Name: "not-described", UID: "u"}, "k",
		"v", nil); err != nil {
		t.Errorf("a pod without a file: %v", err)
	}
	for _, p := range []request.Pod{
		{Namespace: "..", Name: "p"},
		{Namespace: "n", Name: "../../p"},
		{Namespace: "n", Name: ""},
		{Name: "p"},
		{Namespace: "n_m", Name: "p"},
		{Namespace: "n", Name: ".hidden"},
	} {
		if err := s.SetStatus(t.Context(), p, "k", "v", nil); err == nil {
			t.Errorf("%+v: no error", p)
		}
	}
}

func TestEmit(t *testing.T) {
	t.Parallel()
	s, o := source(t, "pods.yaml", pod)
	web := request.Pod{Namespace: "team-a", Name: "web-0", UID: "uid-1"}
	path := filepath.Join(o.StateDir, "team-a_web-0.events.jsonl")
	for i := range 3 {
		if err := s.Emit(t.Context(), web,
			publish.Event{Type: publish.Normal, Reason: "AddedInterface", Message: fmt.Sprintf("line\n%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	var got record
	if len(lines) != 3 || json.Unmarshal(lines[2], &got) != nil || got.Message != "line\n2" ||
		got.Reason != "AddedInterface" || got.Type != "Normal" || got.UID != "uid-1" || got.Time == "" {
		t.Errorf("%d lines, last %+v", len(lines), got)
	}
	write(t, o.StateDir, "team-a_web-0.events.jsonl", strings.Repeat(" ", maxEvents+1))
	if err := s.Emit(t.Context(), web, publish.Event{}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 1000 {
		t.Errorf("the file of events grows without end: %v, %v", info, err)
	}
	web.UID = "uid-2"
	if err := s.Emit(t.Context(), web, publish.Event{}); !errors.Is(err, publish.ErrGone) {
		t.Errorf("another UID: %v", err)
	}
}

// FuzzDecode checks that decode does not panic, that each object can be found by a lookup, and that a valid document
// before or after the input stays readable.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		storage, pod, "---\n" + storage + "...\n--- # x\n" + pod, "kind: List\nitems: [{kind: List}]",
		"%YAML 1.1\n---\na: &a [*a]",
		"{\"kind\": \"Pod\"}", "--- {kind: Pod, apiVersion: v1, metadata: {name: p}}", "\xef\xbb\xbf---", "kind: |\n  ---\n",
		"a: &a {b: c}\nd: {<<: *a}", "...", "? [",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, problems := decode("f.yaml", data)
		for _, o := range objects {
			if o.Metadata.Name == "" || o.Metadata.Namespace == "" || o.document < 1 || o.Kind != kindPod &&
				o.Kind != kindNetwork {
				t.Errorf("object %+v", o)
			}
		}
		for _, p := range problems {
			if !strings.Contains(p.Error(), "f.yaml: document ") {
				t.Errorf("problem %v names no document", p)
			}
		}
		around := "---\n" + network("fuzz", "before", "1") + "---\n" + strings.TrimPrefix(string(data), "\xef\xbb\xbf") +
			"\n---\n" + network("fuzz", "after", "2")
		found := map[string]int{}
		objects, _ = decode("f.yaml", []byte(around))
		for _, o := range objects {
			found[o.Metadata.Namespace+"/"+o.Metadata.Name]++
		}
		if found["fuzz/before"] == 0 || found["fuzz/after"] == 0 {
			t.Errorf("the other documents of the file are lost: %v", found)
		}
	})
}
