package lint

import (
	"testing"

	"go.yaml.in/yaml/v3"
)

// scalar returns the value of the key k of a YAML file.
func scalar(tb testing.TB, file string) text {
	tb.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(file), &doc); err != nil {
		tb.Fatal(err)
	}
	return newText(split([]byte(file)), (node{doc.Content[0]}).get("k").Node)
}
