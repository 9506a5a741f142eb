// Package entrypoint is the process edge of thin_entrypoint, the program in the container of the thin deployment
// (behaviour G.1). It installs the plugin, writes the CNI configuration file and a kubeconfig, and keeps both up to
// date. It runs no plugin. Only cmd/multus-daemon imports it.
package entrypoint

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"multus/internal/agent/cniconfig"
	"multus/internal/config"
	"multus/internal/version"
)

// serviceAccount is the directory in which the kubelet mounts the credentials of the pod.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// Options are the flags, with today's names and defaults (behaviour G1).
type Options struct {
	BinDir              string
	ConfDir             string
	CNIVersion          string
	ConfFile            string
	BinFile             string
	MultusConfDir       string
	SkipBinaryCopy      bool
	KubeconfigFileHost  string
	MasterFileName      string
	NamespaceIsolation  bool
	GlobalNamespaces    string
	AutoconfigDir       string
	LogToStderr         bool
	LogLevel            string
	LogFile             string
	OverrideNetworkName bool
	CleanupOnExit       bool
	SkipConfigWatch     bool
	RenameConfFile      bool
	ReadinessFile       string
	AdditionalBinDir    string
	ForceCNIVersion     bool
	SkipTLSVerify       bool

	// ServiceAccountDir has the files ca.crt and token. Getenv returns environment variables, among them the
	// addresses of the API server and of the node.
	ServiceAccountDir string
	Getenv            func(string) string
	Stdout            io.Writer

	// FirstAnswer limits how long the first configuration waits for the Node object. It defaults to two seconds.
	FirstAnswer time.Duration

	// facts are those of the Node object, nil until it was read.
	facts *cniconfig.Facts
	// chained reports whether a list of another program was found and logged.
	chained bool
}

// Command returns the command line of thin_entrypoint. It exits with a non-zero code after every error (behaviour G3).
func Command(getenv func(string) string, stdout io.Writer) *cobra.Command {
	o := &Options{ServiceAccountDir: serviceAccount, Getenv: getenv, Stdout: stdout}
	cmd := &cobra.Command{
		Use:           "thin_entrypoint",
		Short:         "Install the thin plugin on this node and keep its configuration and kubeconfig up to date",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), o) },
	}
	o.addFlags(cmd)
	return cmd
}

// LegacyName is the script of older images, which charts and operators still run. thin_entrypoint replaces it.
const LegacyName = "entrypoint.sh"

// LegacyCommand returns entrypoint.sh, which is thin_entrypoint with the flags that only the script had. The script
// restarted the runtime if one of these flags was set. They have no effect here, because the runtime watches its
// configuration.
func LegacyCommand(getenv func(string) string, stdout io.Writer) *cobra.Command {
	cmd := Command(getenv, stdout)
	cmd.Use = LegacyName
	for _, name := range []string{"restart-crio", "crio-restart"} {
		cmd.Flags().Bool(name, false, "accepted, without effect: CRI-O watches its configuration")
	}
	return cmd
}

func (o *Options) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.BinDir, "cni-bin-dir", "/host/opt/cni/bin", "CNI plugin `directory` of the host")
	f.StringVar(&o.ConfDir, "cni-conf-dir", "/host/etc/cni/net.d", "CNI configuration `directory` of the host")
	f.StringVar(&o.CNIVersion, "cni-version", "",
		"CNI `version` of the configuration; default, and auto: "+
			"1.1.0 if the node's container runtime supports it and the role permits reading nodes, else that of the cluster "+
			"network")
	f.StringVar(&o.ConfFile, "multus-conf-file", "auto", "configuration `file` to copy, or auto to generate one")
	f.StringVar(&o.BinFile, "multus-bin-file", "/usr/src/multus-cni/bin/multus", "plugin `file` to install")
	f.StringVar(&o.MultusConfDir, "multus-cni-conf-dir", "/host/etc/cni/multus/net.d",
		"`directory` of configurations for definitions without a config")
	f.BoolVar(&o.SkipBinaryCopy, "skip-multus-binary-copy", false, "do not install the plugin")
	f.StringVar(&o.KubeconfigFileHost, "multus-kubeconfig-file-host", "/etc/cni/net.d/multus.d/multus.kubeconfig",
		"kubeconfig `file` as the host sees it")
	f.StringVar(&o.MasterFileName, "multus-master-cni-file-name", "",
		"`name` of the cluster network's file; default: the first that is not of Multus")
	f.BoolVar(&o.NamespaceIsolation, "namespace-isolation", false, "limit pods to definitions of their own namespace")
	f.StringVar(&o.GlobalNamespaces, "global-namespaces", "",
		"comma-separated `namespaces` that every pod may refer to under isolation")
	f.StringVar(&o.AutoconfigDir, "multus-autoconfig-dir", "/host/etc/cni/net.d",
		"`directory` of the cluster network's file")
	f.BoolVar(&o.LogToStderr, "multus-log-to-stderr", true, "let the plugin log to standard error")
	f.StringVar(&o.LogLevel, "multus-log-level", "", "the plugin's log `level`: debug, verbose, error or panic")
	f.StringVar(&o.LogFile, "multus-log-file", "", "the plugin's log `file`")
	f.BoolVar(&o.OverrideNetworkName, "override-network-name", false, "give the configuration the cluster network's name")
	f.BoolVar(&o.CleanupOnExit, "cleanup-config-on-exit", false, "remove the configuration on exit")
	f.BoolVar(&o.SkipConfigWatch, "skip-config-watch", false, "do not follow changes of the cluster network's file")
	f.BoolVar(&o.RenameConfFile, "rename-conf-file", false,
		"rename the cluster network's file to *.old after the configuration was generated")
	f.StringVar(&o.ReadinessFile, "readiness-indicator-file", "", "`file` that exists once the cluster network is ready")
	f.StringVar(&o.AdditionalBinDir, "additional-bin-dir", "",
		"binDir of the configuration: a plugin `directory` that is searched first")
	f.BoolVar(&o.SkipTLSVerify, "skip-tls-verify", false, "do not verify the API server's certificate")
	f.BoolVar(&o.ForceCNIVersion, "force-cni-version", false, "put --cni-version into the embedded cluster network")
	for _, hidden := range []string{"skip-tls-verify", "force-cni-version"} {
		if err := f.MarkHidden(hidden); err != nil {
			panic(err) // cannot happen: addFlags defines the flag
		}
	}
}

// check checks the options before anything is done (behaviour G2, G13).
func (o *Options) check() error {
	paths := []struct{ flag, path string }{{"cni-conf-dir", o.ConfDir}, {"cni-bin-dir", o.BinDir}}
	if !o.SkipBinaryCopy {
		paths = append(paths, struct{ flag, path string }{"multus-bin-file", o.BinFile})
	}
	if o.ConfFile != auto {
		paths = append(paths, struct{ flag, path string }{"multus-conf-file", o.ConfFile})
	}
	for _, p := range paths {
		if _, err := os.Stat(p.path); err != nil {
			return fmt.Errorf("%s is not found: %w", p.flag, err)
		}
	}
	if o.CNIVersion != "" && o.CNIVersion != auto && !config.IsCNIVersion(o.CNIVersion) {
		return fmt.Errorf("cni-version is %.64q, with which no pod could start: it must be one of %s", o.CNIVersion,
			config.KnownVersions())
	}
	switch strings.ToLower(o.LogLevel) {
	case "", "debug", "verbose", "error", "panic":
		return nil
	}
	return fmt.Errorf("Log levels should be one of: debug/verbose/error/panic, did not understand: %q", o.LogLevel) //nolint:staticcheck // today's text
}

const auto = "auto"

// outputs returns the two names of the generated configuration. From CNI 1.0.0 on, it is a conflist (behaviour G9).
func (o *Options) outputs() (conf, conflist string) {
	conf = filepath.Join(o.ConfDir, cniconfig.FileName)
	return conf, conf + "list"
}
