// Package logging creates loggers with the format and levels of today's Multus (behaviour L). It does not decide what
// is logged. The hosts and the command line import it. All other packages get a *slog.Logger.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"gopkg.in/natefinch/lumberjack.v2"

	"multus/internal/config"
	"multus/internal/fault"
)

// The levels of today's configuration, on the scale of slog (behaviour L1).
const (
	LevelPanic   = slog.Level(12)
	LevelError   = slog.LevelError
	LevelVerbose = slog.LevelInfo
	LevelDebug   = slog.LevelDebug
)

// ParseLevel parses the name of a level. An empty name is def.
func ParseLevel(name string, def slog.Level) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "":
		return def, nil
	case "panic":
		return LevelPanic, nil
	case "error":
		return LevelError, nil
	case "warning":
		return slog.LevelWarn, nil
	case "verbose", "info":
		return LevelVerbose, nil
	case "debug":
		return LevelDebug, nil
	}
	return def, fmt.Errorf("multus logging: cannot set logging level to %s", name)
}

// Options are the options of a logger.
type Options struct {
	Level  slog.Level
	Stderr io.Writer // nil for none
	File   string    // "" for none
	Rotate *config.LogOptions
}

// New returns a logger that writes to standard error, to a file with rotation, or to both (behaviour L3).
func New(o Options) *slog.Logger {
	var out []io.Writer
	if o.Stderr != nil {
		out = append(out, o.Stderr)
	}
	if o.File != "" {
		out = append(out, rotated(o.File, o.Rotate))
	}
	if len(out) == 0 {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(&handler{level: o.Level, mu: &sync.Mutex{}, w: io.MultiWriter(out...)})
}

// rotated returns a writer to a file with today's limits: 100 MB, 5 days, 5 files, compressed (behaviour A32).
func rotated(file string, o *config.LogOptions) io.Writer {
	l := &lumberjack.Logger{Filename: file, MaxSize: 100, MaxAge: 5, MaxBackups: 5, Compress: true}
	if o == nil {
		return l
	}
	for _, s := range []struct{ to, from *int }{
		{&l.MaxSize, o.MaxSize},
		{&l.MaxAge, o.MaxAge},
		{&l.MaxBackups, o.MaxBackups},
	} {
		if s.from != nil {
			*s.to = *s.from
		}
	}
	if o.Compress != nil {
		l.Compress = *o.Compress
	}
	return l
}

// handler writes `<RFC3339> [<level>] <text> key=value…` (behaviour L2).
type handler struct {
	level slog.Level
	attrs string
	group string
	mu    *sync.Mutex // held while a line is written
	w     io.Writer
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Time.Format(time.RFC3339))
	b.WriteString(" [" + levelName(r.Level) + "] ")
	if r.Level == slog.LevelWarn {
		b.WriteString("warning: ")
	}
	b.WriteString(Escape(fault.Clip(r.Message, maxValue), unicode.IsPrint))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		h.write(&b, a)
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *handler) write(b *strings.Builder, a slog.Attr) {
	v := fault.Clip(a.Value.Resolve().String(), maxValue)
	if v == "" || strings.ContainsAny(v, " \"=") || Escape(v, unicode.IsPrint) != v {
		v = strconv.Quote(v)
	}
	b.WriteString(" " + h.group + a.Key + "=" + v)
}

// maxValue limits the length of a message and of a value. They may contain what users wrote, such as the configuration
// of a network.
const maxValue = 16 << 10

// Escape escapes each character of s that is not plain, and each byte that is not UTF-8, like Go's quoted strings: user
// input must neither begin a log line nor control a terminal. If there is nothing to escape, it returns s.
func Escape(s string, plain func(rune) bool) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	var b strings.Builder
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		if plain(r) && (r != utf8.RuneError || size > 1) {
			b.WriteString(s[:size])
		} else {
			q := strconv.QuoteToASCII(s[:size])
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[size:]
	}
	return b.String()
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		h.write(&b, a)
	}
	c := *h
	c.attrs += b.String()
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}

// levelName returns today's name of a level. Warnings are written at error level (behaviour L2).
func levelName(l slog.Level) string {
	switch {
	case l >= LevelPanic:
		return "panic"
	case l >= slog.LevelWarn:
		return "error"
	case l >= slog.LevelInfo:
		return "verbose"
	}
	return "debug"
}
