package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"multus/internal/rawjson"
)

// tree is a JSON value with the positions of its parts. It is parsed by encoding/json, like the values themselves.
type tree struct {
	offset  int
	value   any // string, json.Number, bool or nil; json.Delim('{') or json.Delim('[')
	members []member
	items   []*tree
}

type member struct {
	key    string
	offset int
	value  *tree
}

// parseTree parses one JSON value.
func parseTree(src string) (*tree, error) {
	p := &treeParser{src: src, dec: json.NewDecoder(strings.NewReader(src))}
	p.dec.UseNumber()
	return p.parse()
}

type treeParser struct {
	src   string
	dec   *json.Decoder
	depth int
}

// maxDepth limits how deep values are nested, as encoding/json does for values but not for tokens.
const maxDepth = 10000

var errDepth = errors.New("exceeded max depth")

// start returns the offset of the next token.
func (p *treeParser) start() int {
	at := int(p.dec.InputOffset())
	return at + len(p.src[at:]) - len(strings.TrimLeft(p.src[at:], " \t\r\n,:"))
}

func (p *treeParser) parse() (*tree, error) {
	t := &tree{offset: p.start()}
	tok, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	t.value = tok
	open, ok := tok.(json.Delim)
	if !ok {
		return t, nil
	}
	if p.depth++; p.depth > maxDepth {
		return nil, errDepth
	}
	defer func() { p.depth-- }()
	for p.dec.More() {
		var m member
		if open == '{' {
			m.offset = p.start()
			key, err := p.dec.Token()
			if err != nil {
				return nil, err
			}
			m.key = fmt.Sprint(key)
		}
		if m.value, err = p.parse(); err != nil {
			return nil, err
		}
		if open == '{' {
			t.members = append(t.members, m)
		} else {
			t.items = append(t.items, m.value)
		}
	}
	_, err = p.dec.Token()
	return t, err
}

// get returns the value of a member, or nil if t is not an object or does not have the member. Of several members with
// the key, the last one counts. Letter case is ignored, as by encoding/json, with which plugins read their
// configuration.
func (t *tree) get(key string) *tree {
	var out *tree
	if t != nil {
		for _, m := range t.members {
			if strings.EqualFold(m.key, key) {
				out = m.value
			}
		}
	}
	return out
}

// list returns the items. It returns none if t is no array.
func (t *tree) list() []*tree {
	if t == nil {
		return nil
	}
	return t.items
}

// text returns the value if it is a string, and "" otherwise.
func (t *tree) text() string {
	if t == nil {
		return ""
	}
	s, _ := t.value.(string)
	return s
}

// integer returns the value if it is a whole number.
func (t *tree) integer() (int64, bool) {
	if t == nil {
		return 0, false
	}
	n, ok := t.value.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := n.Int64()
	return i, err == nil
}

// kind returns the JSON type of the value.
func (t *tree) kind() kind {
	switch v := t.value.(type) {
	case string:
		return isString
	case json.Number:
		return isNumber
	case bool:
		return isBool
	case json.Delim:
		if v == '{' {
			return isObject
		}
		return isList
	}
	return isNull
}

func (t *tree) kindOr(absent kind) kind {
	if t == nil {
		return absent
	}
	return t.kind()
}

func (t *tree) isTrue() bool { return t != nil && t.value == true }

type kind string

const (
	isString kind = "a string"
	isNumber kind = "a number"
	isBool   kind = "true or false"
	isObject kind = "an object"
	isList   kind = "a list"
	isNull   kind = "null"
	isAny    kind = "anything"
)

// duplicates calls found for each two keys of an object, at any depth, that are equal or differ only in case.
func (t *tree) duplicates(found func(first, second member)) {
	first := map[string]int{}
	for i, m := range t.members {
		key := rawjson.Fold(m.key)
		if j, ok := first[key]; ok {
			found(t.members[j], m)
		} else {
			first[key] = i
		}
		m.value.duplicates(found)
	}
	for _, item := range t.items {
		item.duplicates(found)
	}
}
