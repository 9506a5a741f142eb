package execute

import (
	"fmt"
	"path/filepath"

	"multus/internal/engine/ledger"
	"multus/internal/fsx"
)

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
