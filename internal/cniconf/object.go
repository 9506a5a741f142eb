package cniconf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"multus/internal/rawjson"
)

// object is a JSON object whose members keep their exact text. Editing one member leaves the others as they were
// written: no conversion to float64, no lost keys (behaviour A38).
type object struct {
	keys []string
	vals map[string]json.RawMessage
}

// parseObject parses one JSON object. The last of several equal keys wins (behaviour A2). The members are parts of
// b.
func parseObject(b []byte) (*object, error) {
	o := &object{vals: map[string]json.RawMessage{}}
	if json.Valid(b) && rawjson.Object(b, func(key string, value []byte) error { o.set(key, value); return nil }) == nil {
		return o, nil
	}
	return explainObject(b)
}

// explainObject returns a readable error for JSON that is not an object.
func explainObject(b []byte) (*object, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if tok != json.Delim('{') {
		return nil, fmt.Errorf("want a JSON object, not %v", kind(tok))
	}
	o := &object{vals: map[string]json.RawMessage{}}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := tok.(string)
		if !ok {
			return nil, fmt.Errorf("want a key, not %v", kind(tok))
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		o.set(key, v)
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("unexpected data after the JSON object")
	}
	return o, nil
}

func kind(tok json.Token) string {
	switch t := tok.(type) {
	case json.Delim:
		return "an array"
	case string:
		return fmt.Sprintf("the string %q", t)
	case nil:
		return "null"
	}
	return fmt.Sprintf("%v", tok)
}

func (o *object) set(key string, v json.RawMessage) {
	if _, ok := o.vals[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.vals[key] = v
}

func (o *object) remove(key string) {
	delete(o.vals, key)
	o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
}

// folded returns the key, as it is written, of the member that encoding/json decodes into a field named key: case does
// not matter, and the last such member wins. It returns key if the object has no such member.
func (o *object) folded(key string) string {
	found := key
	for _, k := range o.keys {
		if strings.EqualFold(k, key) {
			found = k
		}
	}
	return found
}

// rename renames the member that folded returns to key itself.
func (o *object) rename(key string) {
	written := o.folded(key)
	v := o.vals[written]
	if written == key {
		return
	}
	o.remove(written)
	o.set(key, v)
}

// foldedString is stringMember for the member that folded returns. An error names the key as it is written.
func (o *object) foldedString(key string) (string, error) { return o.stringMember(o.folded(key)) }

// stringMember returns a member that is a string. An absent member and null are returned as "".
func (o *object) stringMember(key string) (string, error) {
	v, ok := o.vals[key]
	if !ok {
		return "", nil
	}
	if s, ok := rawjson.String(v); ok {
		return s, nil
	}
	var s *string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", fmt.Errorf("%q must be a string, not %s", key, v)
	}
	if s == nil {
		return "", nil
	}
	return *s, nil
}

func (o *object) setString(key, value string) { o.set(key, quote(value)) }

func quote(s string) json.RawMessage {
	b, err := json.Marshal(s) // with escapes for HTML, as in today's Multus
	if err != nil {           // a string always encodes
		panic(err)
	}
	return b
}

// bytes returns the object with its members sorted by key, as today's Multus writes a configuration that it has edited.
// The records of both implementations are therefore equal, byte for byte (behaviour B3, D82).
func (o *object) bytes() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, k := range slices.Sorted(slices.Values(o.keys)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quote(k))
		b.WriteByte(':')
		b.Write(o.vals[k])
	}
	b.WriteByte('}')
	return b.Bytes()
}
