// Package rawjson takes JSON documents apart into their members, as they are written, and puts them together again,
// without reflection. It is for the documents on the path of every pod: the plugin lives for some milliseconds, of
// which encoding/json takes a fifth to look at our types for the first time. It knows no types; what is not in it
// (numbers, errors that point at a place) is encoding/json's. Everything may import it; it imports nothing of ours.
package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// ErrKind is returned for a value that is not of the kind that was asked for.
var ErrKind = errors.New("value of another kind")

// Object calls fn for each member of an object, in order, until it returns an error. value is the member's text without
// white space around it, a part of doc. doc must be valid JSON (json.Valid).
func Object(doc []byte, fn func(key string, value []byte) error) error {
	s := scanner{doc: doc}
	return s.each('{', '}', func() error {
		key, ok := Text(s.value())
		if !ok {
			return ErrKind
		}
		s.next() // the colon
		s.at++
		s.next()
		return fn(key, s.value())
	})
}

// Array calls fn for each element of an array, in order, until it returns an error, as Object does. doc must be valid,
// too.
func Array(doc []byte, fn func(value []byte) error) error {
	s := scanner{doc: doc}
	return s.each('[', ']', func() error { return fn(s.value()) })
}

// Members adds the members of an object to a map, which it makes if there is none. doc must be valid.
func Members(doc []byte, to *map[string]json.RawMessage) error {
	if *to == nil {
		*to = map[string]json.RawMessage{}
	}
	return Object(doc, func(key string, value []byte) error {
		(*to)[key] = value
		return nil
	})
}

// Bool is the value of true or false.
func Bool(value []byte) (b, ok bool) {
	return string(value) == "true", string(value) == "true" || string(value) == "false"
}

// Text is the value of a JSON string.
func Text(value []byte) (string, bool) {
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

// scanner walks through valid JSON.
type scanner struct {
	doc []byte
	at  int
}

// each calls item at the begin of each part of an object or an array.
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

// value returns the value that begins here, and goes on behind it.
func (s *scanner) value() []byte {
	start, depth := s.at, 0
	for ; s.at < len(s.doc); s.at++ {
		switch s.doc[s.at] {
		case '"':
			s.text()
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return s.doc[start:s.at:s.at] // the end of what surrounds a number
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

// text goes to the closing quote.
func (s *scanner) text() {
	for s.at++; s.at < len(s.doc) && s.doc[s.at] != '"'; s.at++ {
		if s.doc[s.at] == '\\' {
			s.at++
		}
	}
}

// AppendText appends a JSON string. What only HTML cares about is not escaped.
func AppendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendOther(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendOther appends what encoding/json makes of a value, null of one that it cannot encode.
func appendOther(b []byte, value any) []byte {
	out, err := Marshal(value)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, out...)
}

// Marshal is json.Marshal without the escapes that are for HTML: each of < > & would take six bytes.
func Marshal(value any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

// AppendItem is AppendText for AppendArray.
func AppendItem(s *string, b []byte) []byte { return AppendText(b, *s) }

// AppendRaw appends a JSON value, without the white space between its parts. It must be valid.
func AppendRaw(b []byte, value []byte) []byte {
	out := bytes.NewBuffer(b)
	if err := json.Compact(out, value); err != nil {
		return append(b, "null"...)
	}
	return out.Bytes()
}

// AppendArray appends a JSON array of what fn appends for each item.
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

// A Writer makes one JSON object: its members one after another, then End.
type Writer struct {
	b     []byte
	first int
}

// Begin begins an object behind what b has already.
func Begin(b []byte) *Writer { return &Writer{b: append(b, '{'), first: len(b) + 1} }

func (w *Writer) key(key string) {
	if len(w.b) > w.first {
		w.b = append(w.b, ',')
	}
	w.b = append(AppendText(w.b, key), ':')
}

// Text writes a member that is a text.
func (w *Writer) Text(key, value string) {
	w.key(key)
	w.b = AppendText(w.b, value)
}

// TextIf writes a member that is a text, unless it is empty.
func (w *Writer) TextIf(key, value string) {
	if value != "" {
		w.Text(key, value)
	}
}

// Bool writes a member that is true or false.
func (w *Writer) Bool(key string, value bool) {
	w.key(key)
	w.b = strconv.AppendBool(w.b, value)
}

// TrueIf writes a member that is true, unless it is not.
func (w *Writer) TrueIf(key string, value bool) {
	if value {
		w.Bool(key, true)
	}
}

// Raw writes a member that is JSON already.
func (w *Writer) Raw(key string, value []byte) {
	w.key(key)
	w.b = AppendRaw(w.b, value)
}

// Other writes a member by encoding/json, if it is to be there: for what is seldom there.
func (w *Writer) Other(key string, value any, present bool) {
	if !present {
		return
	}
	w.key(key)
	w.b = appendOther(w.b, value)
}

// Append writes a member whose value fn appends.
func (w *Writer) Append(key string, fn func(b []byte) []byte) {
	w.key(key)
	w.b = fn(w.b)
}

// End ends the object and returns all.
func (w *Writer) End() []byte { return append(w.b, '}') }
