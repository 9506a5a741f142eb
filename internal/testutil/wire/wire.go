// Package wire holds messages as an earlier plugin and an earlier daemon sent them, for the tests of both sides. During
// an update of a node either may be newer than the other for a while, so these files are never written again: a change
// of the messages adds a directory. Only tests may import it.
package wire

import (
	"embed"
	"encoding/json"
	"testing"
)

//go:embed v1/*.json
var files embed.FS

// Message returns an earlier message, by the name of its file.
func Message(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := files.ReadFile("v1/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Decode decodes a message into maps and lists, for a comparison of its members.
func Decode(tb testing.TB, b []byte) (v any) {
	tb.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		tb.Fatalf("decode message %s: %v", b, err)
	}
	return v
}
