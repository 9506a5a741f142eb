package autoconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/cniconf"
	"multus/internal/fsx"
	"multus/internal/rawjson"
)

// Chain is a list that another program has made of our configuration: our plugin first, its own plugins after it.
// Istio's installation is such a program: it turns 00-multus.conf into 00-multus.conflist, with istio-cni at the end.
//
// The list is our configuration in force. It is left where it is, and only our own plugin in it is kept up to date;
// every other byte is the other program's. To write our file again beside it was rejected: it comes first by name, so
// that the other program's plugins would silently never run. To take the plugins over into our file was rejected, too:
// the other program looks for its plugin where it put it, and removes it from there.
type Chain struct {
	// File is the list, Others are the types of the plugins after ours.
	File   string
	Others []string
	// Shadow is the path of our own file if one exists and comes before the list by name, else "".
	Shadow string
	// Shadowed reports that Shadow is newer than the list: it was written after the list was made, by a program that did
	// not know the list. It stays in force, because the list may be a leftover.
	Shadowed bool

	is, want []byte
	mode     fs.FileMode
}

// FindChain looks for a list that another program has made of our configuration, and returns nil if no such list
// exists. path is the file that own would be written to.
func FindChain(path string, own []byte) *Chain {
	file := path
	if filepath.Ext(path) == ".conf" {
		file = path + "list"
	}
	if filepath.Ext(file) != ".conflist" {
		return nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil
	}
	b, err := fsx.ReadFile(file, cniconf.MaxFile)
	if err != nil {
		return nil
	}
	want, others := chained(b, own)
	if want == nil {
		return nil
	}
	c := &Chain{File: file, Others: others, is: b, want: want, mode: info.Mode().Perm()}
	if file != path && found(path) != nil {
		plain, err := os.Stat(path)
		c.Shadow, c.Shadowed = path, err == nil && plain.ModTime().After(info.ModTime())
	}
	return c
}

// Current reports whether the list has our plugin as it should be, and is what the runtime loads.
func (c *Chain) Current() bool { return bytes.Equal(c.is, c.want) && c.Shadow == "" }

// Write brings our plugin in the list up to date, and removes our file that comes before the list.
func (c *Chain) Write() error {
	if !bytes.Equal(c.is, c.want) {
		if err := fsx.WriteAtomic(c.File, c.want, c.mode); err != nil {
			return fmt.Errorf("write %s: %w", c.File, err)
		}
	}
	if c.Shadow == "" {
		return nil
	}
	if err := fsx.Remove(c.Shadow); err != nil {
		return fmt.Errorf("remove %s, which keeps %s from being used: %w", c.Shadow, c.File, err)
	}
	return nil
}

// chained returns the list with our own plugins in it as they are in own, and the types of the plugins after them; nil
// if the list does not begin with our plugins, or has nothing else.
func chained(list, own []byte) (want []byte, others []string) {
	there, err := cniconf.Parse(list)
	if err != nil || there.Single() {
		return nil, nil
	}
	mine, err := cniconf.Parse(own)
	if err != nil || !beginsWith(there.Types(), mine.Types()) {
		return nil, nil
	}
	n := len(mine.Types())
	objects, err := elements(own)
	if mine.Single() {
		objects, err = []element{{end: len(own)}}, nil
	}
	places, placesErr := elements(list)
	if errors.Join(err, placesErr) != nil || len(objects) != n || len(places) != len(there.Types()) {
		return nil, nil
	}
	want = bytes.Clone(list)
	for i := n - 1; i >= 0; i-- { // from the end: the places before do not move
		p := places[i]
		object, err := plugin(list[p.begin:p.end], own[objects[i].begin:objects[i].end])
		if err != nil {
			return nil, nil
		}
		want = bytes.Join([][]byte{want[:p.begin], object, want[p.end:]}, nil)
	}
	if _, err := libcni.NetworkConfFromBytes(want); err != nil {
		return nil, nil
	}
	return want, there.Types()[n:]
}

// beginsWith reports whether a list of plugin types begins with ours and has others after them. Thin and thick are the
// same here: one may replace the other.
func beginsWith(list, ours []string) bool {
	if len(list) <= len(ours) || !cniconf.IsMultus(list[0]) {
		return false
	}
	for i, typ := range ours {
		if list[i] != typ && !(cniconf.IsMultus(typ) && cniconf.IsMultus(list[i])) {
			return false
		}
	}
	return true
}

// Others returns the plugins that run after Multus in a list that begins with it, none for anything else.
func Others(list []byte) []string {
	l, err := cniconf.Parse(list)
	if err != nil || l.Single() || !cniconf.IsMultus(l.Types()[0]) {
		return nil
	}
	return l.Types()[1:]
}

// plugin returns our plugin as it should be in a list: unchanged, byte for byte, if it means the same. Name and version
// are the list's.
func plugin(is, want []byte) ([]byte, error) {
	var a, b map[string]any
	if err := errors.Join(json.Unmarshal(is, &a), json.Unmarshal(want, &b)); err != nil {
		return nil, err
	}
	for _, m := range []map[string]any{a, b} {
		delete(m, "name")
		delete(m, "cniVersion")
	}
	if reflect.DeepEqual(a, b) {
		return is, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(want, &members); err != nil {
		return nil, err
	}
	delete(members, "name")
	delete(members, "cniVersion")
	return rawjson.Marshal(members)
}

// element is where a plugin of a list is in its text.
type element struct{ begin, end int }

// elements returns the places of the plugins of a list.
func elements(list []byte) ([]element, error) {
	dec := json.NewDecoder(bytes.NewReader(list))
	if _, err := dec.Token(); err != nil { // {
		return nil, err
	}
	var out []element
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		if key != "plugins" {
			var skipped json.RawMessage
			if err := dec.Decode(&skipped); err != nil {
				return nil, err
			}
			continue
		}
		if out, err = array(dec); err != nil { // the last of several wins
			return nil, err
		}
	}
	return out, nil
}

func array(dec *json.Decoder) ([]element, error) {
	if open, err := dec.Token(); err != nil || open != json.Delim('[') {
		return nil, fmt.Errorf("plugins is no array: %w", err)
	}
	var out []element
	for dec.More() {
		var item json.RawMessage
		if err := dec.Decode(&item); err != nil {
			return nil, err
		}
		end := int(dec.InputOffset())
		out = append(out, element{end - len(item), end})
	}
	_, err := dec.Token() // ]
	return out, err
}

// String names the list and what is in it, for logs.
func (c *Chain) String() string {
	return fmt.Sprintf("%s (multus, %s)", c.File, strings.Join(c.Others, ", "))
}
