package ledger

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fullElement has every key.
const fullElement = `{"Conf":{"ipam":{}},"ConfList":{"name":"<n>"},"Name":"n","ifnameRequest":"net1","macRequest":"02:00:00:00:00:01","infinibandGUIDRequest":"g","ipRequest":["10.0.0.2/24"],
	"default-route":["10.0.0.1"],"deviceID":"d","resourceName":"r","IsFilterV4Gateway":true,"IsFilterV6Gateway":true,"Bytes":"e30=","netnsPath":"/run/netns/x","cniArgs":[["a","b"]],
	"binDir":"/b","bootID":"i","stage":2,"undone":true,"delTries":1,"begun":3,"deleted":true,"capabilityArgs":{"é":[ 1 , 2 ],"a":{"b":"<"}},"hostDevice":{"name":"eth1","ifindex":3},"claim":{"namespace":"<n>","name":"c","uid":"u","driver":"d","pool":"p","device":"v","shareID":"s"},"owner":"pod","pending":true,"reattaching":true}`

// TestFullElement checks that fullElement, with which FuzzElement starts, has every key.
func TestFullElement(t *testing.T) {
	t.Parallel()
	var e element
	if err := json.Unmarshal([]byte(fullElement), &e); err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(e)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is not set", v.Type().Field(i).Name)
		}
	}
}

// FuzzElement checks that an element is decoded as by encoding/json and encoded byte for byte as by encoding/json.
func FuzzElement(f *testing.F) {
	f.Add([]byte(fullElement))
	f.Add([]byte(`{"Conf":{},"ConfList":{},"Name":"","IsFilterV4Gateway":false,"IsFilterV6Gateway":false,"Bytes":""}`))
	for _, doc := range []string{
		`{"Bytes":"!"}`, `{"bytes":"e30=","NAME":"x"}`, `{"Name":null}`,
		`{"cniArgs":[],"cniArgs":[["a","b"]]}`, `{"capabilityArgs":null}`, `{"undone":1}`, `[]`, `null`,
		`{"Name":"a","Name":"\ud800"}`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if !json.Valid(doc) {
			return // Store.decode only splits valid documents
		}
		var got, want element
		wantErr, err := json.Unmarshal(doc, &want), error(nil)
		if err = got.parse(doc); (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v, encoding/json says %v", doc, err, wantErr)
		}
		if err != nil || want.Bytes == nil {
			return
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("%q (-encoding/json +parse):\n%s", doc, d)
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(&want); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(bytes.TrimSpace(b.Bytes())), string(want.appendJSON(nil))); d != "" {
			t.Errorf("%q (-encoding/json +appendJSON):\n%s", doc, d)
		}
	})
}
