package netsel

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"multus/internal/rawjson"
)

// errForm is returned for an element that the comma-separated form cannot express.
var errForm = errors.New("the annotation is in the comma-separated form, which cannot express this element: " +
	"rewrite the annotation in JSON first")

// Append returns the value of a selection annotation with one more element at its end. The other elements keep their
// form: those of JSON are kept byte for byte. A value without elements becomes one in the comma-separated form, or in
// JSON if that form cannot express e. The error is that of Parse for a value that cannot be parsed.
func Append(value string, e *Element) (string, error) {
	elements, err := Parse(value)
	if err != nil {
		return "", err
	}
	encoded, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("encode element: %w", err)
	}
	forms := []string{value + "," + short(e)}
	switch {
	case len(elements) == 0:
		forms = []string{short(e), "[" + string(encoded) + "]"}
	case isJSON(value):
		end := spans(value)[len(elements)-1][1]
		forms = []string{value[:end] + "," + string(encoded) + value[end:]}
	}
	elements = append(elements, *e)
	for _, form := range forms {
		got, parseErr := Parse(form)
		if parseErr == nil && reflect.DeepEqual(got, elements) {
			return form, nil
		}
		err = parseErr
	}
	if err == nil || len(elements) > 1 && !isJSON(value) {
		return "", errForm
	}
	return "", err
}

// Remove returns the value of a selection annotation without the element of an index of Parse. The other elements keep
// their form: those of JSON are kept byte for byte. Without the last element, the value is empty. The error is that of
// Parse, or about an index that is out of range.
func Remove(value string, index int) (string, error) {
	elements, err := Parse(value)
	switch {
	case err != nil:
		return "", err
	case index < 0 || index >= len(elements):
		return "", fmt.Errorf("remove element %d of %d: there is no such element", index+1, len(elements))
	case len(elements) == 1:
		return "", nil
	case !isJSON(value):
		items := slices.Delete(strings.Split(value, ","), index, index+1)
		if out := strings.TrimSpace(strings.Join(items, ",")); out != "" {
			return out, nil
		}
		return " ", nil // one element without a name; an empty value has none
	}
	at := spans(value)
	if index == 0 {
		return value[:at[0][0]] + value[at[1][0]:], nil
	}
	return value[:at[index-1][1]] + value[at[index][1]:], nil
}

// isJSON reports whether a value is in JSON (behaviour C10).
func isJSON(value string) bool { return strings.ContainsAny(value, `[{"`) }

// short returns an element in the comma-separated form, without what that form cannot express.
func short(e *Element) string {
	out := e.Name
	if e.Namespace != "" {
		out = e.Namespace + "/" + out
	}
	if e.Interface != "" {
		out += "@" + e.Interface
	}
	return out
}

// spans returns the first and the last offset of each element of a JSON array of objects that Parse accepts.
func spans(value string) (out [][2]int) {
	end := 0
	_ = rawjson.Array([]byte(value), func(item []byte) error { // Parse accepts the value
		start := end + strings.Index(value[end:], string(item)) // only commas and white space precede the object
		end = start + len(item)
		out = append(out, [2]int{start, end})
		return nil
	})
	return out
}
