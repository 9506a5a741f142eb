package entrypoint

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"multus/internal/agent/cniconfig"
	"multus/internal/config"
	"multus/internal/source/kube"
	"multus/internal/version"
)

// The environment variables of the manifests.
const (
	nodeAddress = "MULTUS_NODE_ADDRESS"
	nodeName    = "MULTUS_NODE_NAME"
)

// firstAnswer is the default of Options.FirstAnswer.
const firstAnswer = 2 * time.Second

// autoVersion reports whether the version of the configuration depends on the node.
func (o *Options) autoVersion() bool { return o.CNIVersion == "" || o.CNIVersion == config.Auto }

// readsNode reports whether the configuration depends on the Node object, and the name of the node is known.
func (o *Options) readsNode() bool {
	return o.ConfFile == auto && o.Getenv(nodeName) != "" && (o.autoVersion() || o.Getenv(nodeAddress) == "")
}

// watchNode starts to read the Node object, and waits for the first answer. The channel delivers
// later answers. It is nil if the object is not read. stop stops reading.
func (o *Options) watchNode(ctx context.Context) (learned <-chan cniconfig.Facts, stop func()) {
	stop = func() {}
	if o.readsNode() {
		learned, stop = o.startNodeWatch(ctx)
		select {
		case f := <-learned:
			o.facts = &f
		case <-time.After(cmp.Or(o.FirstAnswer, firstAnswer)):
		case <-ctx.Done():
		}
	}
	if o.ConfFile == auto && o.Getenv(nodeAddress) == "" && len(o.nodeFacts().Addresses) == 0 {
		o.logf("%s is not set: the device with the node's address is not protected from pods (nodeAddresses).", nodeAddress)
	}
	return learned, stop
}

func (o *Options) startNodeWatch(ctx context.Context) (<-chan cniconfig.Facts, func()) {
	var client *kube.Client
	c, err := kube.Load(kube.Options{
		ServiceHost: o.Getenv("KUBERNETES_SERVICE_HOST"), ServicePort: o.Getenv("KUBERNETES_SERVICE_PORT"),
		ServiceAccountDir: o.ServiceAccountDir, Version: version.Release(),
	})
	if err == nil {
		client, err = kube.New(c)
	}
	learned := make(chan cniconfig.Facts, 1)
	if err != nil { // for example a missing CA, which --skip-tls-verify does not need
		o.logf("cannot read the Node object: %v", err)
		learned <- cniconfig.Facts{}
		return learned, func() {}
	}
	w := cniconfig.NodeWatch{
		Read: cniconfig.NodeReader(client.Node, o.Getenv(nodeName)), Clock: clock.RealClock{},
		Warn: func(text string, err error) { o.logf("%s: %v", text, err) },
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { w.Run(ctx, learned) })
	return learned, func() { cancel(); done.Wait() }
}

// nodeFacts returns the facts of the Node object. Until it was read, they are those of the existing configuration.
func (o *Options) nodeFacts() cniconfig.Facts {
	switch {
	case o.facts != nil:
		return *o.facts
	case !o.readsNode():
		return cniconfig.Facts{}
	}
	conf, conflist := o.outputs()
	b, err := os.ReadFile(conflist)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = os.ReadFile(conf)
	}
	if err != nil {
		return cniconfig.Facts{}
	}
	return cniconfig.FactsOf(b)
}
