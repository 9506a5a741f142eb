package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, want string }{
		{"", `version "": want`},
		{"-version 1.2.3", `version "1.2.3": want`},
		{"-version v2.0.0", `version "v2.0.0": want`},
		{"-version v1.2.3-4-gabc", ""},
		{"-version v1.2.3-rc.1", ""},
		{"-version 5c207a2-dirty", `version "5c207a2-dirty": want`},
		{"-version v1.2.3 -image multus", `image "multus": want a repository`},
		{"-version v1.2.3 -image localhost:5000/multus", ""},
		{"-version v1.2.3 -image localhost:5000/multus:v1", `image "localhost:5000/multus:v1": want a repository`},
	} {
		_, err := parse(strings.Fields(tc.args), "")
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.args, err, tc.want)
		}
	}
	if _, err := parse([]string{"-version", "v1.2.3"}, "yesterday"); err == nil {
		t.Error("an epoch that is not a number")
	}
}

// TestPlace checks that a release replaces a former one, and nothing else.
func TestPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, stage := filepath.Join(dir, "out"), filepath.Join(dir, "stage")
	mine := filepath.Join(out, "mine")
	write(t, mine, "x")
	write(t, filepath.Join(stage, "new"), "y")
	r := &release{options: options{out: out}, stage: stage}
	if err := r.place(t.Context()); err == nil || !strings.Contains(err.Error(), "it is not a release") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(out, sumsName), "")
	if err := r.place(t.Context()); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 1 || entries[0].Name() != "new" {
		t.Errorf("%v %v", entries, err)
	}
	write(t, filepath.Join(stage, "first"), "z")
	if err := (&release{options: options{out: filepath.Join(dir, "none")}, stage: stage}).place(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	const log = "# Change log\n\n- no entry\n\n## [Unreleased]\n\n### Added\n\n- one\n  and more\n- two\n\n" +
		"  not an entry\n\n### Notes\n\n- no kind\n\n## [1.2.3] - 2026-01-02\n\n### Fixed\n\n- three\n"
	if d := cmp.Diff([]change{{"added", "one and more"}, {"added", "two"}}, entries(log, "Unreleased")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]change{{"fixed", "three"}}, entries(log, "1.2.3")); d != "" {
		t.Error(d)
	}
	if got := entries(log, "1.2"); got != nil {
		t.Errorf("%v", got)
	}
}

// TestChangeLog checks that the project's own change log can be read.
func TestChangeLog(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	of := regexp.MustCompile(`(?m)^## \[(.*?)\]`).FindAllStringSubmatch(string(b), -1)
	if len(of) == 0 {
		t.Fatal("it has no sections")
	}
	listed := 0
	for _, section := range of {
		listed += len(entries(string(b), section[1]))
	}
	if all := strings.Count(string(b), "\n- "); listed != all {
		t.Errorf("%d of %d entries are read: is a heading not one of %v?", listed, all, kinds)
	}
}

// TestBOM checks that the list has every module that `go version -m` prints, on the program of this test.
func TestBOM(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	body, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cni", "program"), string(body))
	r := &release{options: options{image: "registry.example/multus", version: "v1.2.3"}, time: time.Unix(0, 0).UTC()}
	bom, err := r.bom("amd64", dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bom.json")
	if err := writeBOM(path, bom); err != nil {
		t.Fatal(err)
	}
	if n := checkBOM(t, path, dir); n < 20 {
		t.Errorf("%d modules were compared", n)
	}
	again, err := r.bom("amd64", dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(bom, again); d != "" {
		t.Error(d)
	}
}

// checkBOM compares a list with what `go version -m` prints for the programs of a directory, and returns the number of
// modules.
func checkBOM(t *testing.T, path, dir string) (compared int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{} // by reference
	for _, c := range *bom.Components {
		names[c.BOMRef] = c.Name + " " + c.Version
	}
	linked := map[string][]string{}
	for _, d := range *bom.Dependencies {
		for _, ref := range *d.Dependencies {
			linked[strings.TrimPrefix(d.Ref, "program:")] = append(linked[strings.TrimPrefix(d.Ref, "program:")], names[ref])
		}
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		out, err := exec.CommandContext(t.Context(), "go", "version", "-m", path).Output()
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(out)) {
			words := strings.Fields(line)
			if len(words) < 3 || !slices.Contains([]string{"mod", "dep", "=>"}, words[0]) {
				continue
			}
			compared++
			if !slices.Contains(linked[name], words[1]+" "+words[2]) {
				t.Errorf("%s: %s %s is not listed", name, words[1], words[2])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return compared
}

// TestKrew checks the manifest against the rules of krew's index.
func TestKrew(t *testing.T) {
	t.Parallel()
	r := &release{
		stage: t.TempDir(), stdout: &bytes.Buffer{},
		options: options{version: "v1.2.3", source: "https://git.example/multus"},
		plugins: []pluginArchive{{
			os: "windows", arch: "arm64", name: "kubectl-multus-v1.2.3-windows-arm64.zip", binary: "kubectl-multus.exe",
			sum: "abc",
		}},
	}
	if err := r.writeKrew(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(r.file("multus.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got krewPlugin
	if err := yaml.UnmarshalStrict(b, &got); err != nil {
		t.Fatal(err)
	}
	p := got.Spec.Platforms[0]
	if got.Metadata["name"] != "multus" || len(got.Spec.ShortDescription) > 50 || p.Bin != "kubectl-multus.exe" ||
		p.URI != "https://git.example/multus/releases/download/v1.2.3/kubectl-multus-v1.2.3-windows-arm64.zip" ||
		p.Selector.MatchLabels["os"] != "windows" || p.Selector.MatchLabels["arch"] != "arm64" || p.SHA256 != "abc" {
		t.Errorf("%s", b)
	}
}

// TestPack checks that an archive depends on the files alone, and that a program can be executed.
func TestPack(t *testing.T) {
	t.Parallel()
	files := []packed{{"LICENSE", 0o644, []byte("text")}, {"program", 0o755, []byte("binary")}}
	for name, pack := range map[string]func([]packed, time.Time) ([]byte, error){"tar": packTar, "zip": packZip} {
		a, err := pack(files, time.Unix(1700000000, 0).UTC())
		if err != nil {
			t.Fatal(err)
		}
		b, err := pack(files, time.Unix(1700000000, 0).UTC())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("two %s archives of the same files differ", name)
		}
		path := filepath.Join(t.TempDir(), "archive")
		write(t, path, string(a))
		if name == "tar" {
			out, err := exec.CommandContext(t.Context(), "tar", "--utc", "-tvzf", path).Output()
			if err != nil || !regexp.MustCompile(`-rwxr-xr-x 0/0 +6 2023-11-14 22:13 program`).Match(out) {
				t.Errorf("%v\n%s", err, out)
			}
		}
	}
}

// TestSign checks that the command gets the two files, and that its failure is an error.
func TestSign(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := options{version: "v1.2.3", sign: "printf '%s\n' >>log signed"}
	r := &release{stage: dir, options: o, stdout: &bytes.Buffer{}}
	if err := r.signFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	want := "signed\n" + dir + "/SHA256SUMS\nsigned\n" + dir + "/multus-v1.2.3.intoto.json\n"
	if err != nil || string(b) != want {
		t.Errorf("%v %q, want %q", err, b, want)
	}
	r.sign = "false"
	if err := r.signFiles(t.Context()); err == nil {
		t.Error("a signature that fails")
	}
}

func write(t *testing.T, path, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
}
