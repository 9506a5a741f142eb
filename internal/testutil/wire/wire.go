// Package wire contains messages as an earlier plugin and an earlier daemon sent them, for the tests of both sides.
// During an update of a node either side may be newer than the other for a while. So these files never change: a
// message with a new key is added as another file, and another version of the protocol as another directory. The
// messages *-full.json have every key. Only tests may import this package.
package wire

import (
	"embed"
	"encoding/json"
	"testing"
)

//go:embed v1/*.json
var files embed.FS

// Message returns an earlier message by the name of its file.
func Message(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := files.ReadFile("v1/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Decode decodes a message into maps and slices, so that its members can be compared.
func Decode(tb testing.TB, b []byte) (v any) {
	tb.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		tb.Fatalf("decode message %s: %v", b, err)
	}
	return v
}
