package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"multus/internal/config"
	"multus/internal/engine/publish"
	"multus/internal/source"
	"multus/internal/source/dra"
	"multus/internal/source/kube"
)

// sources are those of the plugin, with a cache of all network definitions.
type sources struct {
	*source.Sources
	// cache has the network definitions, and emitNode writes an event of a node. Both are nil without a cluster.
	cache    *kube.Cache
	emitNode func(ctx context.Context, node string, e publish.Event) error
	// slices has the devices of this node that drivers publish. It is nil without a cluster.
	slices *kube.SliceCache
}

// connect opens the sources. Without a cluster, network definitions and pods come from the directory networksDir.
func connect(conf *config.Daemon, node string, getenv func(string) string, log *slog.Logger) (*sources, error) {
	var slices *kube.SliceCache
	s, err := source.Open(source.Options{
		Slices: func(c *kube.Client) dra.Slices {
			slices = kube.NewSliceCache(c, node, log)
			return slices
		},
		NetworksDir: conf.NetworksDir, StatusDir: filepath.Join(conf.SocketDir, "status"),
		Kubeconfig: conf.Kubeconfig, KubeletRoot: conf.KubeletRoot, Events: conf.Events, Getenv: getenv, Log: log,
	})
	if errors.Is(err, kube.ErrNoCluster) {
		return nil, fmt.Errorf("%w: give --kubeconfig, or networksDir in the configuration, or run in a pod", err)
	}
	if err != nil {
		return nil, err
	}
	if s.Kube == nil {
		return &sources{Sources: s}, nil
	}
	cache := kube.NewCache(s.Kube, log)
	s.Networks = cache
	return &sources{Sources: s, cache: cache, emitNode: s.Kube.EmitNode, slices: slices}, nil
}

// run keeps the cache up to date until ctx ends.
func (s *sources) run(ctx context.Context) error {
	s.cache.Run(ctx)
	return nil
}

// runSlices follows the devices of the node once they are needed, until ctx ends.
func (s *sources) runSlices(ctx context.Context) error { return s.slices.Run(ctx) }

// ready returns an error while plans cannot be made.
func (s *sources) ready() error {
	if s.cache != nil && !s.cache.Synced() {
		return errors.New("network definitions are not read yet: the API server does not answer, or does not allow " +
			"Multus to list them")
	}
	return nil
}
