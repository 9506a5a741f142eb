package deploy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSecurityPage checks that every test that docs/security.md names exists in the package that it names, and that
// every component exists.
func TestSecurityPage(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	where := regexp.MustCompile("((?:`Test[A-Za-z]+`(?:, | and )?)+)(?: \\([^)]*\\))? in `([a-z0-9/]+)`")
	name := regexp.MustCompile("`(Test[A-Za-z]+)`")
	located := 0
	for _, m := range where.FindAllStringSubmatch(strings.ReplaceAll(string(b), "\n", " "), -1) {
		for _, test := range name.FindAllStringSubmatch(m[1], -1) {
			located++
			if !declared(t, filepath.Join("../..", m[2]), test[1]) {
				t.Errorf("%s has no %s", m[2], test[1])
			}
		}
	}
	if all := len(name.FindAllString(string(b), -1)); located != all || all < 20 {
		t.Errorf("%d tests are named, %d with their package", all, located)
	}
	for _, m := range regexp.MustCompile("deploy/components/([a-z-]+)").FindAllStringSubmatch(string(b), -1) {
		if _, err := os.Stat(filepath.Join(root, "components", m[1])); err != nil {
			t.Error(err)
		}
	}
}

// TestReliabilityPage checks that each row of docs/reliability.md names a test and that these tests exist: in the
// package that the page names, or in faults, realnode or e2e.
func TestReliabilityPage(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	groups := regexp.MustCompile("((?:`Test[^`]+`(?:, | and )?)+)(?: \\([^)]*\\))?(?: in `([a-z0-9/]+)`)?")
	name := regexp.MustCompile("`(Test[A-Za-z0-9]+)")
	rows := 0
	for line := range strings.SplitSeq(string(b), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if !strings.HasPrefix(line, "| ") || strings.Contains(line, " | Shown by |") {
			continue
		}
		rows++
		if !name.MatchString(line) && !strings.Contains(line, "| See *") {
			t.Errorf("no test: %s", line)
		}
		for _, g := range groups.FindAllStringSubmatch(cells[len(cells)-1], -1) {
			dirs := []string{g[2]}
			if g[2] == "" {
				dirs = []string{"test/faults", "test/realnode", "test/e2e"}
			}
			for _, test := range name.FindAllStringSubmatch(g[1], -1) {
				if !slices.ContainsFunc(dirs, func(dir string) bool { return declared(t, filepath.Join("../..", dir), test[1]) }) {
					t.Errorf("no %s in %q", test[1], dirs)
				}
			}
		}
	}
	if rows < 50 {
		t.Errorf("%d rows", rows)
	}
}

// declared reports whether a test is declared in a directory or below it.
func declared(t *testing.T, dir, test string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || strings.Contains(string(b), "\nfunc "+test+"(t *testing.T)")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestPinned checks that the image is built with the compiler of go.mod and from an image with a digest, and that no
// privileged Job runs an image with the tag latest.
func TestPinned(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	toolchain := regexp.MustCompile(`(?m)^toolchain go(\S+)$`).FindStringSubmatch(read("go.mod"))
	if toolchain == nil {
		t.Fatal("go.mod names no toolchain")
	}
	docker := read("Dockerfile")
	if want := "golang:" + toolchain[1] + "@sha256:"; !strings.Contains(docker, want) {
		t.Errorf("Dockerfile has no %s", want)
	}
	for _, from := range regexp.MustCompile(`(?m)^FROM (?:--\S+ )?(\S+)`).FindAllStringSubmatch(docker, -1) {
		if from[1] != "scratch" && from[1] != "$GO_IMAGE" {
			t.Errorf("Dockerfile: image %s", from[1])
		}
	}
	if strings.Contains(read("deploy/uninstall/job.yaml"), ":latest") {
		t.Error("the privileged Job has an image latest")
	}
}

// TestIndex checks that the index of the documentation has every page, and no page that does not exist.
func TestIndex(t *testing.T) {
	t.Parallel()
	index, err := os.ReadFile("../../docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 20 {
		t.Fatalf("%q, %v", pages, err)
	}
	for _, page := range pages {
		if name := filepath.Base(page); name != "README.md" && !strings.Contains(string(index), "("+name+")") {
			t.Errorf("%s is not in the index", name)
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(string(index), -1) {
		if _, err := os.Stat(filepath.Join("../../docs", m[1])); err != nil {
			t.Error(err)
		}
	}
}
