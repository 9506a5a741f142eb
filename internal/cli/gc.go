package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"multus/internal/doctor"
)

func (a *app) gcCommand() *cobra.Command {
	var dryRun bool
	var root string
	c := &cobra.Command{
		Use:   "gc --dry-run",
		Short: "Show what this node remembers of sandboxes that are gone",
		Long: "Show what this node remembers of sandboxes that are gone, and that a GC would free: their network namespace does\n" +
			"not exist, and has not for ten minutes. Nothing is freed; the container runtime's GC does that.",
		RunE: func(*cobra.Command, []string) error {
			if !dryRun {
				return usageError{errors.New("give --dry-run: freeing is left to the container runtime's GC")}
			}
			n, err := a.node(root, "")
			if err != nil {
				return err
			}
			stale, err := doctor.Stale(n)
			if err != nil {
				return err
			}
			records := []record{}
			for _, r := range stale {
				rec := newRecord(r.ContainerID, r, nil)
				rec.State = stateGone
				records = append(records, rec)
			}
			return a.print(map[string]any{"records": records}, func(w io.Writer) {
				for _, r := range records {
					fmt.Fprintf(w, "%s  %s  %s is gone; would be freed: %s\n", short(r.Container), r.name(), r.Netns, r.networks())
				}
				fmt.Fprintf(w, "%d to free\n", len(records))
			})
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show")
	c.Flags().StringVar(&root, "root", "/", "`directory` where the node's file system is seen")
	return c
}
