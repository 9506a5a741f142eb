package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"multus/internal/config"
	"multus/internal/logging"
)

// configuration reads the daemon's configuration file and applies the flags to it.
func (o *Options) configuration() (*config.Daemon, error) {
	b, err := os.ReadFile(o.Config)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; give --config FILE (examples/node/daemon-config.json is one to start from)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the daemon's configuration: %w", err)
	}
	conf, err := config.ParseDaemon(b)
	if err == nil {
		err = conf.Usable()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Config, err)
	}
	useOwnPath(conf)
	if o.Kubeconfig != "" {
		conf.Kubeconfig = o.Kubeconfig
	}
	if o.MetricsPort != 0 {
		conf.MetricsPort = &o.MetricsPort
	}
	if o.MetricsAuth != "" {
		conf.MetricsAuth = o.MetricsAuth
	}
	if o.NodeAddress != "" && len(conf.NodeAddresses) == 0 {
		conf.NodeAddresses = []string{o.NodeAddress}
	}
	return conf, nil
}

// logIgnoredKeys logs the keys of today's Multus that are accepted but have no effect.
func logIgnoredKeys(conf *config.Daemon, log *slog.Logger) {
	if conf.PerNodeCertificate != nil {
		log.Error("perNodeCertificate is not supported: the credentials of the pod are used")
	}
	if conf.ConnectionLimit != nil {
		log.Warn("connectionLimit has no effect: requests are short, and no plugin runs in the daemon",
			"connection_limit", *conf.ConnectionLimit)
	}
}

// useOwnPath removes the prefix under which today's manifests mount the node's directories from socketDir, if that
// mount does not exist.
func useOwnPath(conf *config.Daemon) {
	own := conf.HostPath(conf.SocketDir)
	if own == conf.SocketDir {
		return
	}
	if _, err := os.Stat(strings.TrimSuffix(conf.SocketDir, own)); errors.Is(err, fs.ErrNotExist) {
		conf.SocketDir = own
	}
}

// logger returns the logger that the configuration describes.
func logger(conf *config.Daemon) (*slog.Logger, error) {
	level, err := logging.ParseLevel(conf.LogLevel, logging.LevelVerbose)
	if err != nil {
		return nil, err
	}
	o := logging.Options{Level: level, File: conf.LogFile, Rotate: conf.LogOptions}
	if conf.LogToStderr == nil || *conf.LogToStderr || conf.LogFile == "" {
		o.Stderr = os.Stderr
	}
	return logging.New(o), nil
}
