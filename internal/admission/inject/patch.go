package inject

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// operation is one operation of a JSON patch. All are "add", which also replaces a value.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

type patch []operation

// add adds or replaces the value at a path.
func (p *patch) add(path string, value any) {
	*p = append(*p, operation{"add", path, value})
}

// escape returns a key as part of a path (RFC 6901).
func escape(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }

// index returns the path of an item of a list.
func index(list string, i int) string { return fmt.Sprintf("%s/%d", list, i) }

// setAll returns the operations that set members of the object at a path, which has the members in old. An object that
// does not exist is created. Operations on single members do not overwrite what other webhooks set.
func setAll[V any](path string, old map[string]V, set map[string]string) (p patch) {
	if len(set) == 0 {
		return nil
	}
	if old == nil {
		p.add(path, set)
		return p
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		p.add(path+"/"+escape(key), set[key])
	}
	return p
}

// appendTo returns the operations that append a value to the list at a path. A list that does not exist is created.
func appendTo[T any](path string, old []T, value any) (p patch) {
	if old == nil {
		p.add(path, []any{value})
		return p
	}
	p.add(path+"/-", value)
	return p
}
