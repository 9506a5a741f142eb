package logging

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/natefinch/lumberjack.v2"

	"multus/internal/config"
)

func TestParseLevel(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		want slog.Level
		bad  bool
	}{
		{"", LevelVerbose, false},
		{"panic", LevelPanic, false},
		{"ERROR", LevelError, false},
		{"Verbose", LevelVerbose, false},
		{"debug", LevelDebug, false},
		{"warning", slog.LevelWarn, false},
		{"info", LevelVerbose, false},
		{"loud", LevelVerbose, true},
	}
	for _, tc := range tests {
		got, err := ParseLevel(tc.name, LevelVerbose)
		if got != tc.want || (err != nil) != tc.bad {
			t.Errorf("L1: %q: %v, %v", tc.name, got, err)
		}
		if tc.bad && err.Error() != "multus logging: cannot set logging level to "+tc.name {
			t.Errorf("L1: %v", err)
		}
	}
	if !(LevelPanic > LevelError && LevelError > LevelVerbose && LevelVerbose > LevelDebug) {
		t.Error("L1: the order of the levels")
	}
}

// TestFormat checks the log format L2: time, level and text, then key=value. A warning is an error with a prefix.
func TestFormat(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := New(Options{Level: LevelDebug, Stderr: &b})
	log.Debug("d")
	log.Info("i", "n", 1, "text", "two words", "empty", "", "quote", `a"b`, "line", "a\nb", "eq", "a=b")
	log.Warn("w", "err", errors.New("it failed"))
	log.With("pod", "ns/p").WithGroup("g").With("a", 1).Error("e", "seconds", 1.5)
	log.Log(t.Context(), LevelPanic, "p", "d", 3*time.Second, "nil", nil)
	stamp := regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) `)
	if n := len(stamp.FindAllString(b.String(), -1)); n != 5 {
		t.Errorf("%d lines begin with a time:\n%s", n, b.String())
	}
	want := `[debug] d
[verbose] i n=1 text="two words" empty="" quote="a\"b" line="a\nb" eq="a=b"
[error] warning: w err="it failed"
[error] e pod=ns/p g.a=1 g.seconds=1.5
[panic] p d=3s nil=<nil>
`
	if diff := cmp.Diff(want, stamp.ReplaceAllString(b.String(), "")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, want string
	}{{"panic", "p"}, {"error", "ep"}, {"verbose", "iwep"}, {"debug", "diwep"}} {
		level, err := ParseLevel(tc.name, 0)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		log := New(Options{Level: level, Stderr: &b})
		log.Debug("d")
		log.Info("i")
		log.Warn("w")
		log.Error("e")
		log.Log(t.Context(), LevelPanic, "p")
		got := ""
		for line := range strings.Lines(b.String()) {
			got += strings.TrimSpace(line)[len(strings.TrimSpace(line))-1:]
		}
		if got != tc.want {
			t.Errorf("L1: %s writes %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestDestinations checks L3: standard error, a file of mode 0600, both, or neither.
func TestDestinations(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	file := filepath.Join(t.TempDir(), "sub", "multus.log")
	New(Options{Level: LevelVerbose, Stderr: &b, File: file}).Info("both")
	New(Options{Level: LevelVerbose, File: file}).Info("file")
	New(Options{Level: LevelVerbose}).Error("nowhere")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "\n") != 1 || !strings.Contains(b.String(), "both") ||
		strings.Count(string(data), "\n") != 2 {
		t.Errorf("stderr %q, file %q", b.String(), data)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestRotated checks A32 and L3: today's limits, each of which an option replaces, from the first line on.
func TestRotated(t *testing.T) {
	t.Parallel()
	type limits struct {
		size, age, backups int
		compress           bool
	}
	tests := []struct {
		name string
		o    *config.LogOptions
		want limits
	}{
		{"defaults", nil, limits{100, 5, 5, true}},
		{"none set", &config.LogOptions{}, limits{100, 5, 5, true}},
		{"one", &config.LogOptions{MaxAge: new(1)}, limits{100, 1, 5, true}},
		{
			"all", &config.LogOptions{MaxAge: new(1), MaxSize: new(2), MaxBackups: new(3), Compress: new(false)},
			limits{2, 1, 3, false},
		},
		{"zero", &config.LogOptions{MaxBackups: new(0)}, limits{100, 5, 0, true}},
	}
	for _, tc := range tests {
		l, ok := rotated("/x", tc.o).(*lumberjack.Logger)
		if !ok || l.Filename != "/x" {
			t.Fatalf("%s: %T", tc.name, l)
		}
		if got := (limits{l.MaxSize, l.MaxAge, l.MaxBackups, l.Compress}); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// TestConcurrent checks that lines are not mixed, also across derived loggers.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := New(Options{Level: LevelVerbose, Stderr: &b})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			l := log.With("worker", i)
			for range 50 {
				l.Info("line", "text", strings.Repeat("x", 100))
			}
		})
	}
	wg.Wait()
	whole := regexp.MustCompile(`^\S+ \[verbose\] line worker=\d text=x{100}\n$`)
	n := 0
	for line := range strings.Lines(b.String()) {
		n++
		if !whole.MatchString(line) {
			t.Fatalf("%q", line)
		}
	}
	if n != 400 {
		t.Errorf("%d lines", n)
	}
}

// TestOneRecordOneLine checks that user input cannot end a log line, forge another one, or control a terminal.
func TestOneRecordOneLine(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	log := New(Options{Level: LevelVerbose, Stderr: &b})
	log.Info("Del: ns/n(x\n2026-01-01T00:00:00Z [verbose] Add: kube-system:coredns \x1b]0;pwn\a\u202e)", "name",
		"a\x1b[31m", "long", strings.Repeat("x", 1<<20), "raw", "\x9b31m")
	log.Info("raw \x9b31m")
	got := b.String()
	if strings.Count(got, "\n") != 2 || !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\a\u202e") ||
		len(got) > 4*maxValue {
		t.Errorf("%d lines, %d bytes: %.300q", strings.Count(got, "\n"), len(got), got)
	}
	for _, want := range []string{`Del: ns/n(x\n2026`, `name="a\x1b[31m"`, `raw="\x9b31m"`, `raw \x9b31m`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %.300q", want, got)
		}
	}
}
