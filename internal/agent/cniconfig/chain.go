package cniconfig

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

// Chain is a list that another program made of our configuration: our plugin comes first, and the plugins of the other
// program follow. The Istio installer does so: it turns 00-multus.conf into 00-multus.conflist, with istio-cni at the
// end.
//
// The list is then the configuration in force. It stays where it is. Only our plugin in it is kept up to date, and
// every other byte is left unchanged. Two alternatives were rejected. If we wrote our file again beside the list, the
// file would come first by name, and the plugins of the other program would silently never run. If we copied those
// plugins to our file, the other program would not find its plugin where it has put it, and could not remove it.
type Chain struct {
	// File is the path of the list. Others are the types of the plugins after ours.
	File   string
	Others []string
	// Shadow is the path of our own file if that exists and comes before the list by name, or "".
	Shadow string
	// Shadowed reports whether Shadow is newer than the list: a program that ignores the list wrote it after the list was
	// made. Shadow then stays in force, because the list may be leftover state.
	Shadowed bool

	is, want []byte
	mode     fs.FileMode
}

// FindChain returns the list that another program made of our configuration, or nil if there is no such list. path is
// the file to which own would be written.
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

// Current reports whether the list has our plugin up to date, and is what the runtime loads.
func (c *Chain) Current() bool { return bytes.Equal(c.is, c.want) && c.Shadow == "" }

// Write updates our plugin in the list, and removes our own file if that comes before the list.
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
		return fmt.Errorf("remove %s, which the runtime loads before %s: %w", c.Shadow, c.File, err)
	}
	return nil
}

// chained returns the list with our plugins replaced by those of own, and the types of the other plugins. It returns
// nil if the list does not begin with our plugins, or has no others.
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
	for i := n - 1; i >= 0; i-- { // from the end, so that earlier offsets stay valid
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

// beginsWith reports whether a list of plugin types begins with ours and has others after them. The thin and the thick
// plugin count as the same type, because one may replace the other.
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

// ChainedPlugins returns the types of the plugins after Multus in a list that begins with Multus, and nil for anything
// else.
func ChainedPlugins(list []byte) []string {
	l, err := cniconf.Parse(list)
	if err != nil || l.Single() || !cniconf.IsMultus(l.Types()[0]) {
		return nil
	}
	return l.Types()[1:]
}

// plugin returns our plugin as it should be in a list, without name and version, which are those of the list. If is has
// the same content as want, it is returned byte for byte.
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

// element is the position of a plugin in the bytes of a list.
type element struct{ begin, end int }

// elements returns the positions of the plugins of a list.
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
		if out, err = array(dec); err != nil { // the last duplicate key counts
			return nil, err
		}
	}
	return out, nil
}

func array(dec *json.Decoder) ([]element, error) {
	if open, err := dec.Token(); err != nil || open != json.Delim('[') {
		return nil, fmt.Errorf("plugins must be an array: %w", err)
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

// String returns the path of the list and its plugins, for logs.
func (c *Chain) String() string {
	return fmt.Sprintf("%s (multus, %s)", c.File, strings.Join(c.Others, ", "))
}
