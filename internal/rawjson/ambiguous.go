package rawjson

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
)

// Ambiguous returns an error if an object of a document, at any depth, has two keys that differ in nothing but their case:
// encoding/json takes one of them, and what judges the document may take the other. doc must be valid.
func Ambiguous(doc []byte) error {
	doc = bytes.TrimSpace(doc)
	if len(doc) == 0 || doc[0] != '{' && doc[0] != '[' {
		return nil
	}
	if doc[0] == '[' {
		return Array(doc, Ambiguous)
	}
	seen := map[string]string{} // as they are written, by fold
	return Object(doc, func(key string, value []byte) error {
		folded := fold(key)
		if other, ok := seen[folded]; ok && other != key {
			return fmt.Errorf("the keys %.64q and %.64q differ in nothing but their case", other, key)
		}
		seen[folded] = key
		return Ambiguous(value)
	})
}

// fold returns the same string for all keys that strings.EqualFold, and so encoding/json, takes for one.
func fold(key string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, key)
}
