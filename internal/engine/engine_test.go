package engine

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multus/internal/cniconf"
	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// node is a node whose sandboxes are records only: a state directory, locks and a directory of plugins. A plugin logs
// "<type> <command> <container>" and runs the script in the file <type>.do.
type node struct {
	dir    string
	engine *Engine
	store  *ledger.Store
}

const plugin = `#!/bin/sh
me=$(basename $0); dir=$(dirname $0)
cat > $dir/$me.$CNI_COMMAND.in
echo "$me $CNI_COMMAND $CNI_CONTAINERID" >> $dir/log
test -e $dir/$me.do && . $dir/$me.do
test $CNI_COMMAND = ADD && echo "{\"cniVersion\":\"1.1.0\",\"interfaces\":[{\"name\":\"$CNI_IFNAME\"}]}"
exit 0`

func newNode(t *testing.T, plugins ...string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{dir: dir, store: &ledger.Store{
		Dir: filepath.Join(dir, "state"), Boot: "now",
		Log: slog.New(slog.DiscardHandler),
	}}
	for _, p := range plugins {
		if err := os.WriteFile(filepath.Join(dir, p), []byte(plugin), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.engine = New(Deps{
		Planner: planner{}, Publisher: discard{}, Boot: "now", LockFile: filepath.Join(dir, "run", "locks"),
		Log: slog.New(slog.DiscardHandler),
	})
	return n
}

// planner plans the cluster network only.
type planner struct{}

func (planner) Plan(_ context.Context, req *request.Request, conf *config.Plugin) (*plan.Plan, error) {
	l, err := cniconf.Parse([]byte(`{"cniVersion":"1.1.0","name":"cluster-net","type":"cluster"}`))
	return &plan.Plan{
		ContainerID: req.ContainerID, Netns: req.Netns,
		Dirs:        plan.Dirs{State: conf.CNIDir, Binary: conf.BinDir},
		Attachments: []plan.Attachment{{Name: "cluster-net", Primary: true, IfName: "eth0", Config: l}},
	}, err
}

type discard struct{}

func (discard) Publish(context.Context, *publish.Report) error { return nil }

func (n *node) request(command, container, more string) *request.Request {
	return &request.Request{
		Command: command, ContainerID: container, IfName: "eth0", Netns: filepath.Join(n.dir, "netns", "gone"),
		Path: os.Getenv("PATH"),
		Config: []byte(`{"cniVersion":"1.1.0","name":"multus-cni-network","type":"multus","clusterNetwork":"x","cniDir":"` +
			n.store.Dir + `","binDir":"` + n.dir + `"` + more + `}`),
	}
}

// attached records a sandbox with the cluster network and one more network, as an ADD does that is killed right after.
func (n *node) attached(t *testing.T, container, network, version, netns, boot string) {
	t.Helper()
	p := &plan.Plan{ContainerID: container, Netns: netns, Dirs: plan.Dirs{State: n.store.Dir, Binary: n.dir}}
	for i, name := range []string{"cluster", network} {
		l, err := cniconf.Parse([]byte(`{"cniVersion":"` + version + `","name":"` + name + `-net","type":"` + name + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		p.Attachments = append(p.Attachments, plan.Attachment{
			Name: name + "-net", Primary: i == 0, IfName: []string{"eth0", "net1"}[i], Config: l,
			Args: request.Args{{request.PodNamespace, "team"}, {request.PodName, "p-" + container}},
		})
	}
	store := *n.store
	store.Boot = boot
	if err := errors.Join(store.Write(ledger.NewRecord(p)), store.NoteNetworks(ledger.NewRecord(p))); err != nil {
		t.Fatal(err)
	}
}

// result writes libcni's result of an attachment and returns the file.
func (n *node) result(t *testing.T, network, container, ifName string) string {
	t.Helper()
	return n.resultWith(t, "{}", network, container, ifName)
}

// resultOf is result with the configuration that attached gives to the network.
func (n *node) resultOf(t *testing.T, plugin, container, ifName string) {
	t.Helper()
	network := plugin + "-net"
	n.resultWith(t, `{"cniVersion":"1.1.0","name":"`+network+`","type":"`+plugin+`"}`, network, container, ifName)
}

func (n *node) resultWith(t *testing.T, config, network, container, ifName string) string {
	t.Helper()
	file := filepath.Join(n.store.Dir, "results", network+"-"+container+"-"+ifName)
	b := fmt.Sprintf(`{"kind":"cniCacheV1","containerId":%q,"config":%q,"ifName":%q,"networkName":%q,"result":{"cniVersion":"1.0.0"}}`,
		container, base64.StdEncoding.EncodeToString([]byte(config)), ifName, network)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(b), 0o600)); err != nil {
		t.Fatal(err)
	}
	return file
}

func (n *node) does(t *testing.T, plugin, what string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, plugin+".do"), []byte(what), 0o600); err != nil {
		t.Fatal(err)
	}
}

// age makes a record older.
func (n *node) age(t *testing.T, container string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	if err := os.Chtimes(filepath.Join(n.store.Dir, container), then, then); err != nil {
		t.Fatal(err)
	}
}

// called returns the log of the plugins and clears it.
func (n *node) called(t *testing.T) string {
	t.Helper()
	file := filepath.Join(n.dir, "log")
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	_ = os.Remove(file)
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", ", ")
}

// in returns the standard input of a plugin's last call.
func (n *node) in(t *testing.T, plugin, command string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.dir, plugin+"."+command+".in"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (n *node) recorded(t *testing.T, container string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(n.store.Dir, container))
	return err == nil
}
