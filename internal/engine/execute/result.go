package execute

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"multus/internal/engine/ledger"
	"multus/internal/fsx"
)

// Result returns the result of an attachment that libcni has cached, in the version of its configuration.
func (r *Runner) Result(of *ledger.Record, a *ledger.Attachment) (json.RawMessage, error) {
	list, rt, err := r.prepare(of, a)
	if err != nil {
		return nil, err
	}
	cached, err := r.cni.GetNetworkListCachedResult(list, rt)
	if err == nil && cached == nil {
		err = errors.New("libcni has none")
	}
	var b []byte
	if err == nil {
		b, err = json.Marshal(cached)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cached result of network %s: %w", a.Name, err)
	}
	return b, nil
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
