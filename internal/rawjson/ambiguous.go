package rawjson

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
)

// Ambiguous returns an error if an object of a document, at any depth, has two keys that differ only in case.
// encoding/json uses one of them, and a check of the document may use the other. doc must be valid JSON.
func Ambiguous(doc []byte) error {
	doc = bytes.TrimSpace(doc)
	if len(doc) == 0 || doc[0] != '{' && doc[0] != '[' {
		return nil
	}
	if doc[0] == '[' {
		return Array(doc, Ambiguous)
	}
	var few [16][]byte
	seen, scan := keySet{few: few[:0]}, scanner{doc: doc}
	return scan.each('{', '}', func() error {
		key := unquoted(scan.value())
		scan.next() // the colon
		scan.at++
		scan.next()
		value := scan.value()
		if other := seen.add(key); !bytes.Equal(other, key) {
			return fmt.Errorf("the keys %.64q and %.64q differ in nothing but their case", other, key)
		}
		return Ambiguous(value)
	})
}

// keySet is the set of keys of one object. The few keys that most objects have are compared one by one, without an
// allocation.
type keySet struct {
	few  [][]byte
	many map[string][]byte // by fold
}

// add adds a key. It returns the first added key for the same member. For a new member this is key itself.
func (s *keySet) add(key []byte) []byte {
	for _, other := range s.few {
		if bytes.EqualFold(other, key) {
			return other
		}
	}
	if len(s.few) < cap(s.few) {
		s.few = append(s.few, key)
		return key
	}
	folded := Fold(string(key))
	if other, ok := s.many[folded]; ok {
		return other
	}
	if s.many == nil {
		s.many = map[string][]byte{}
	}
	s.many[folded] = key
	return key
}

// unquoted returns the value of a JSON string, without a copy if possible.
func unquoted(value []byte) []byte {
	if inside := value[1 : len(value)-1]; bytes.IndexByte(inside, '\\') < 0 {
		return inside
	}
	s, _ := String(value)
	return []byte(s)
}

// Fold returns the same string for all keys that strings.EqualFold, and therefore encoding/json, treats as equal.
func Fold(key string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, key)
}
