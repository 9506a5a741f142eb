// Package rawjson splits JSON documents into their members as they are written, and assembles documents, without
// reflection. It is for documents that are processed for every pod: the plugin process runs for some milliseconds, and
// encoding/json takes a fifth of them to inspect Go types for the first time. The package is independent of Go types.
// Numbers, and errors with a position, are left to encoding/json. Every package may import it, and it imports no other
// package of this module.
package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// ErrKind is returned for a value that is not of the expected kind.
var ErrKind = errors.New("value of another kind")

// Object calls fn for each member of an object, in order, until fn returns an error. value is the member's value
// without surrounding white space, as a part of doc. doc must be valid JSON (json.Valid).
func Object(doc []byte, fn func(key string, value []byte) error) error {
	s := scanner{doc: doc}
	return s.each('{', '}', func() error {
		key, ok := String(s.value())
		if !ok {
			return ErrKind
		}
		s.next() // the colon
		s.at++
		s.next()
		return fn(key, s.value())
	})
}

// Array calls fn for each element of an array, in order, until fn returns an error. As in Object, doc must be valid
// JSON.
func Array(doc []byte, fn func(value []byte) error) error {
	s := scanner{doc: doc}
	return s.each('[', ']', func() error { return fn(s.value()) })
}

// Members adds the members of an object to a map, and allocates the map if it is nil. doc must be valid JSON.
func Members(doc []byte, to *map[string]json.RawMessage) error {
	if *to == nil {
		*to = map[string]json.RawMessage{}
	}
	return Object(doc, func(key string, value []byte) error {
		(*to)[key] = value
		return nil
	})
}

// Bool returns the value of true or false. ok is false for any other value.
func Bool(value []byte) (b, ok bool) {
	return string(value) == "true", string(value) == "true" || string(value) == "false"
}

// String returns the value of a JSON string.
func String(value []byte) (string, bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	inside := value[1 : len(value)-1]
	if bytes.IndexByte(inside, '\\') < 0 && utf8.Valid(inside) {
		return string(inside), true
	}
	var s string
	err := json.Unmarshal(value, &s)
	return s, err == nil
}

// scanner scans valid JSON.
type scanner struct {
	doc []byte
	at  int
}

// each calls item at the beginning of each part of an object or an array.
func (s *scanner) each(begin, end byte, item func() error) error {
	if s.next() != begin {
		return ErrKind
	}
	for s.at++; s.next() != end; {
		if s.doc[s.at] == ',' {
			s.at++
			continue
		}
		if err := item(); err != nil {
			return err
		}
	}
	return nil
}

// next skips white space and returns the byte after it.
func (s *scanner) next() byte {
	for ; s.at < len(s.doc); s.at++ {
		switch s.doc[s.at] {
		case ' ', '\t', '\n', '\r':
		default:
			return s.doc[s.at]
		}
	}
	return 0
}

// value returns the value that begins at the current position, and advances past it.
func (s *scanner) value() []byte {
	start, depth := s.at, 0
	for ; s.at < len(s.doc); s.at++ {
		switch s.doc[s.at] {
		case '"':
			s.skipString()
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return s.doc[start:s.at:s.at] // the end of the object or array that contains a number
			}
		case ',', ' ', '\t', '\n', '\r', ':':
			if depth == 0 {
				return s.doc[start:s.at:s.at]
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			s.at++
			break
		}
	}
	return s.doc[start:s.at:s.at]
}

// skipString advances to the closing quote.
func (s *scanner) skipString() {
	for s.at++; s.at < len(s.doc) && s.doc[s.at] != '"'; s.at++ {
		if s.doc[s.at] == '\\' {
			s.at++
		}
	}
}

// AppendString appends a JSON string, without the escapes for HTML.
func AppendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendOther(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendOther appends a value as encoding/json encodes it, or null if it cannot be encoded.
func appendOther(b []byte, value any) []byte {
	out, err := Marshal(value)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, out...)
}

// Marshal is json.Marshal without the escapes for HTML: each of < > & would take six bytes.
func Marshal(value any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

// AppendItem is AppendString for AppendArray.
func AppendItem(s *string, b []byte) []byte { return AppendString(b, *s) }

// AppendRaw appends a JSON value without the white space between its parts. If the value is invalid, it appends null.
func AppendRaw(b []byte, value []byte) []byte {
	out := bytes.NewBuffer(b)
	if err := json.Compact(out, value); err != nil {
		return append(b, "null"...)
	}
	return out.Bytes()
}

// AppendArray appends a JSON array. fn appends each item.
func AppendArray[T any](b []byte, items []T, fn func(item *T, b []byte) []byte) []byte {
	b = append(b, '[')
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = fn(&items[i], b)
	}
	return append(b, ']')
}

// Writer writes one JSON object: its members one after another, then End.
type Writer struct {
	b     []byte
	first int
}

// Begin begins an object after the present content of b.
func Begin(b []byte) *Writer { return &Writer{b: append(b, '{'), first: len(b) + 1} }

func (w *Writer) key(key string) {
	if len(w.b) > w.first {
		w.b = append(w.b, ',')
	}
	w.b = append(AppendString(w.b, key), ':')
}

// String writes a string member.
func (w *Writer) String(key, value string) {
	w.key(key)
	w.b = AppendString(w.b, value)
}

// StringIf writes a string member if it is not empty.
func (w *Writer) StringIf(key, value string) {
	if value != "" {
		w.String(key, value)
	}
}

// Bool writes a boolean member.
func (w *Writer) Bool(key string, value bool) {
	w.key(key)
	w.b = strconv.AppendBool(w.b, value)
}

// TrueIf writes the member if value is true.
func (w *Writer) TrueIf(key string, value bool) {
	if value {
		w.Bool(key, true)
	}
}

// Raw writes a member that is already JSON.
func (w *Writer) Raw(key string, value []byte) {
	w.key(key)
	w.b = AppendRaw(w.b, value)
}

// Other writes a member with encoding/json if present is true. It is for rare members.
func (w *Writer) Other(key string, value any, present bool) {
	if !present {
		return
	}
	w.key(key)
	w.b = appendOther(w.b, value)
}

// Append writes a member whose value is appended by fn.
func (w *Writer) Append(key string, fn func(b []byte) []byte) {
	w.key(key)
	w.b = fn(w.b)
}

// End ends the object and returns the content.
func (w *Writer) End() []byte { return append(w.b, '}') }
