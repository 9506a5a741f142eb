package execute

import (
	"fmt"

	"multus/internal/engine/plan"
	"multus/internal/fsx"
)

// Forget removes what libcni remembers, if anything, of an attachment that is gone although a delegate refuses to
// delete it.
func (r *Runner) Forget(p *plan.Plan, a *plan.Attachment) error {
	if err := fsx.Remove(r.cacheFile(a.Config.Name(), p.ContainerID, a.IfName)); err != nil {
		return fmt.Errorf("forget the result of network %s: %w", a.Name, err)
	}
	return nil
}
