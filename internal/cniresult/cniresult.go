// Package cniresult reads the results of CNI plugins. The CNI library converts between versions; this package keeps
// input from it on which it panics. It is imported by what runs plugins and by what publishes their results.
package cniresult

import (
	"encoding/json"
	"errors"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// ErrNull is returned for a result with a list that has a null.
var ErrNull = errors.New("a list of the result has a null")

// CheckNulls returns an error if a list of the result has a null in the place of an object. The CNI library panics on
// such a result when it converts versions.
func CheckNulls(result []byte) error {
	var lists struct{ Interfaces, IPs, Routes []json.RawMessage }
	if err := json.Unmarshal(result, &lists); err != nil {
		return err
	}
	for _, item := range slices.Concat(lists.Interfaces, lists.IPs, lists.Routes) {
		if len(item) == 0 || string(item) == "null" {
			return ErrNull
		}
	}
	return nil
}

// Parse returns a result of any version in the current one.
func Parse(result []byte) (*current.Result, error) {
	if err := CheckNulls(result); err != nil {
		return nil, err
	}
	res, err := create.CreateFromBytes(result)
	if err != nil {
		return nil, err
	}
	return current.NewResultFromResult(res)
}
