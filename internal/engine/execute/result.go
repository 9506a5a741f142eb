package execute

import (
	"fmt"
	"path/filepath"

	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/fsx"
)

// RemoveResult removes libcni's result of an attachment, if there is one. It is for an attachment that is gone or given
// up although a delegate refuses to delete it.
func (r *Runner) RemoveResult(p *plan.Plan, a *plan.Attachment) error {
	name, err := entry(p, a)
	if err == nil {
		err = fsx.Remove(filepath.Join(ledger.ResultsDir(r.dir), name))
	}
	if err != nil {
		return fmt.Errorf("remove the cached result of network %s: %w", a.Name, err)
	}
	return nil
}
