package install

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// LegacyName is the program of today's image that this package replaces (behaviour G30).
const LegacyName = "install_multus"

// DefaultDest is the CNI bin directory of most nodes. legacyDest is the path at which today's manifests mount it.
const (
	DefaultDest = "/opt/cni/bin"
	legacyDest  = "/host/opt/cni/bin"
)

// ErrHelp is returned after LegacyName has printed its help, which counts as a failure there (behaviour O43).
var ErrHelp = errors.New("help was asked for")

// Source returns the directory of the running binary, with links resolved. It has the other binaries, too.
func Source() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the running binary: %w", err)
	}
	return filepath.Dir(self), nil
}

// For returns the options of an installation. Source and Missing default to directories beside the running binary.
func For(source, dest, deployment string, reference bool) (Options, error) {
	names, err := Names(deployment)
	if err != nil {
		return Options{}, err
	}
	if source == "" {
		if source, err = Source(); err != nil {
			return Options{}, err
		}
	}
	o := Options{Source: source, Dest: dest, Names: names}
	if reference {
		o.Missing = filepath.Join(source, ReferenceDir)
	}
	return o, nil
}

// Reporter returns a Report function that writes a line for each file.
func Reporter(w io.Writer) func(File) {
	return func(f File) {
		switch f.State {
		case Copied:
			fmt.Fprintf(w, "%s: installed\n", f.Name)
		case Equal:
			fmt.Fprintf(w, "%s: is up to date\n", f.Name)
		case Kept:
			fmt.Fprintf(w, "%s: exists already, kept\n", f.Name)
		}
	}
}

// Command returns `multus-daemon install`.
func Command() *cobra.Command {
	var source, dest, deployment string
	var reference bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the plugins into the CNI bin directory",
		Long: "Install the plugins into the CNI bin directory, over those that are there and may be running.\n" +
			"A file that is equal is not touched; a file is never half-written, even if this is killed.",
		Example: "  multus-daemon install --dest /opt/cni/bin --type thick --reference-plugins",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := For(source, dest, deployment, reference)
			if err != nil {
				return err
			}
			o.Report = Reporter(cmd.OutOrStdout())
			return Install(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&source, "source", "", "`directory` of the binaries (default: that of this program)")
	cmd.Flags().StringVar(&dest, "dest", DefaultDest, "the CNI bin `directory`")
	cmd.Flags().StringVar(&deployment, "type", "all", "the `deployment` whose plugins are installed: thick, thin or all")
	cmd.Flags().BoolVar(&reference, "reference-plugins", false,
		"also install the reference CNI plugins that the directory lacks")
	return cmd
}

// LegacyCommand returns install_multus, with the flags and texts of today's image (behaviour G30, G31). It parses
// the flags itself, because help is not a success there.
func LegacyCommand() *cobra.Command {
	return &cobra.Command{
		Use:                LegacyName,
		DisableFlagParsing: true,
		SilenceUsage:       true,
		SilenceErrors:      true,
		RunE:               legacy,
	}
}

func legacy(cmd *cobra.Command, args []string) error {
	var dest, deployment string
	flags := pflag.NewFlagSet(LegacyName, pflag.ContinueOnError)
	flags.SetOutput(cmd.ErrOrStderr())
	flags.Usage = func() {
		fmt.Fprintf(cmd.ErrOrStderr(), "Usage of %s:\n%s", LegacyName, flags.FlagUsages())
	}
	flags.StringVarP(&dest, "dest-dir", "d", legacyDest, "destination `directory`")
	flags.StringVarP(&deployment, "type", "t", "", "the `type` of the deployment: thick or thin")
	err := flags.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		return ErrHelp
	}
	if err != nil {
		return err
	}
	if deployment != "thick" && deployment != "thin" {
		return ErrType
	}
	o, err := For("", dest, deployment, false)
	if err != nil {
		return err
	}
	o.Report = func(f File) {
		kind := "multus"
		if f.Name == passthru {
			kind = "passthru cni"
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s copy succeeded!\n", kind, f.From)
	}
	err = Install(cmd.Context(), o)
	if fe := (*FileError)(nil); errors.As(err, &fe) {
		return fmt.Errorf("failed to copy file %s: %w", fe.File.From, fe.Err)
	}
	return err
}
