package plan_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive is a txtar file: a comment, followed by files that begin with "-- name --".
type archive struct {
	comment string
	files   []member
}

type member struct{ name, data string }

// eachArchive calls fn for every golden archive.
func eachArchive(t *testing.T, fn func(path string, a *archive)) {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	const least = 45
	if len(paths) < least {
		t.Errorf("%d archives in testdata, want at least %d", len(paths), least)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fn(path, parseArchive(data))
	}
}

func parseArchive(data []byte) *archive {
	a := &archive{}
	to := &a.comment
	for line := range strings.Lines(string(data)) {
		trimmed := strings.TrimRight(line, "\n")
		if name, ok := strings.CutPrefix(trimmed, "-- "); ok && strings.HasSuffix(name, " --") {
			a.files = append(a.files, member{name: strings.TrimSuffix(name, " --")})
			to = &a.files[len(a.files)-1].data
			continue
		}
		*to += line
	}
	return a
}

func (a *archive) format() []byte {
	var b bytes.Buffer
	b.WriteString(a.comment)
	for _, f := range a.files {
		fmt.Fprintf(&b, "-- %s --\n%s", f.name, f.data)
		if f.data != "" && !strings.HasSuffix(f.data, "\n") {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}
