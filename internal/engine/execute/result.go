package execute

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"multus/internal/engine/ledger"
	"multus/internal/fsx"
	"multus/internal/rawjson"
)

// Result returns the result of an attachment that libcni has cached, as its plugin returned it. libcni would decode and
// convert it, which takes most of the time of an observation of a node.
func (r *Runner) Result(of *ledger.Record, a *ledger.Attachment) (json.RawMessage, error) {
	result, err := r.readResult(of, a)
	if err != nil {
		return nil, fmt.Errorf("read the cached result of network %s: %w", a.Name, err)
	}
	return result, nil
}

func (r *Runner) readResult(of *ledger.Record, a *ledger.Attachment) (result json.RawMessage, err error) {
	name, err := entry(of, a)
	if err != nil {
		return nil, err
	}
	b, err := ledger.ReadResult(r.dir, name)
	if err != nil {
		return nil, err
	}
	if !json.Valid(b) {
		return nil, errors.New("it is no JSON")
	}
	err = rawjson.Object(b, func(key string, value []byte) error {
		if key == "result" {
			result = value
		}
		return nil
	})
	if err == nil && result == nil {
		err = errors.New("libcni has none")
	}
	return result, err
}

// RemoveResult removes libcni's result of an attachment, if there is one. It is for an attachment that is gone or given
// up although a delegate refuses to delete it.
func (r *Runner) RemoveResult(of *ledger.Record, a *ledger.Attachment) error {
	name, err := entry(of, a)
	if err == nil {
		err = fsx.Remove(filepath.Join(ledger.ResultsDir(r.dir), name))
	}
	if err != nil {
		return fmt.Errorf("remove the cached result of network %s: %w", a.Name, err)
	}
	return nil
}
