package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"multus/internal/version"
)

// versionOutput is what `version -o json` prints.
type versionOutput struct {
	Version string `json:"version"`
	// Build has the commit, its time, and whether the sources had changes.
	Build string `json:"build"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		RunE: func(*cobra.Command, []string) error {
			out := versionOutput{Version: version.Release(), Build: version.String()}
			return a.print(out, func(w io.Writer) { fmt.Fprintf(w, "multusctl: %s\n", out.Build) })
		},
	}
}
