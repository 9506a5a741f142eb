package lint

import (
	"testing"

	"go.yaml.in/yaml/v3"
)

// scalar returns the value of the key k of a YAML file.
func scalar(tb testing.TB, file string) text {
	tb.Helper()
	var doc yaml.Node
	lines := split([]byte(file))
	source, moved := readable(File{Data: []byte(file)}, lines)
	if err := yaml.Unmarshal([]byte(source), &doc); err != nil {
		tb.Fatal(err)
	}
	moved.apply(doc.Content[0])
	return newText(lines, (node{doc.Content[0]}).get("k").Node)
}
