package request

import "multus/internal/rawjson"

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
