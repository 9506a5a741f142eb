package request

import (
	"encoding/base64"

	"multus/internal/rawjson"
)

// AppendJSON appends the JSON of the request as encoding/json writes it. It is hand-written because the plugin process
// encodes one request and exits.
func (r *Request) AppendJSON(b []byte) []byte {
	w := rawjson.Begin(b)
	w.String("command", r.Command)
	w.String("containerID", r.ContainerID)
	w.String("netns", r.Netns)
	w.String("ifName", r.IfName)
	if len(r.Args) > 0 {
		w.Append("args", r.Args.AppendJSON)
	}
	w.String("path", r.Path)
	w.String("config", base64.StdEncoding.EncodeToString(r.Config))
	return w.End()
}

// AppendJSON appends the pairs as arrays with two elements.
func (a Args) AppendJSON(b []byte) []byte {
	return rawjson.AppendArray(b, a,
		func(p *Pair, b []byte) []byte { return rawjson.AppendArray(b, p[:], rawjson.AppendItem) })
}

// ParseJSON decodes what AppendJSON encodes. value must be valid JSON.
func (a *Args) ParseJSON(value []byte) bool {
	ok := true
	err := rawjson.Array(value, func(item []byte) error {
		var p Pair
		n := 0
		err := rawjson.Array(item, func(v []byte) error {
			if n < len(p) {
				s, isString := rawjson.String(v)
				p[n], ok = s, ok && isString
			}
			n++
			return nil
		})
		ok = ok && n == len(p)
		*a = append(*a, p)
		return err
	})
	return ok && err == nil
}
