// Package arch has no code: its tests enforce the layers and the limits of the project (docs/architecture.md).
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ranks are the layers from top to bottom. A package may import packages of lower layers, and of its own layer only
// those that are listed in beside.
var ranks = [][]string{
	{"multus/cmd/"},
	{"multus/internal/host/", "multus/internal/cli"},
	{"multus/internal/source"},
	{"multus/internal/admission"},
	{
		"multus/internal/agent/", "multus/internal/doctor", "multus/internal/lint", "multus/internal/graph",
		"multus/internal/source/",
	},
	{"multus/internal/engine"},
	{"multus/internal/engine/reap"},
	{"multus/internal/engine/detach"},
	{"multus/internal/engine/hostdevice"},
	{"multus/internal/engine/session"},
	{"multus/internal/engine/execute"},
	{"multus/internal/engine/ledger"},
	{"multus/wire/v1"},
	{"multus/internal/engine/plan", "multus/internal/engine/publish"},
	{"multus/internal/engine/request", "multus/internal/admission/inject"},
	{"multus/internal/logging"},
	{"multus/internal/config", "multus/internal/device"},
	{
		"multus/internal/fault", "multus/internal/cniconf", "multus/internal/cniresult", "multus/internal/netsel",
		"multus/internal/link", "multus/wire/client",
	},
	{"multus/internal/fsx"},
	{
		"multus/internal/failpoint", "multus/internal/rawjson", "multus/internal/agent/recent", "multus/internal/node",
		"multus/internal/version",
	},
}

// beside are the permitted imports within a layer. The thin host is the plugin's host with sources, and the runner is
// its long form. The binary of the daemon serves several names. The cp of a manifest installs plugins. What the
// configuration depends on of a node is read from the API server. The doctor uses the rules of the CNI configuration
// file and the API server.
var beside = map[string][]string{
	"multus/internal/host/thin":       {"multus/internal/host/plugin"},
	"multus/internal/host/runner":     {"multus/internal/host/plugin"},
	"multus/internal/host/daemon":     {"multus/internal/host/install", "multus/internal/host/entrypoint"},
	"multus/internal/host/entrypoint": {"multus/internal/host/install"},
	"multus/internal/host/shell":      {"multus/internal/host/install"},
	"multus/internal/agent/cniconfig": {"multus/internal/source/kube"},
	"multus/internal/agent/repair":    {"multus/internal/source/kube"},
	"multus/internal/agent/planserver": {
		"multus/internal/agent/claims", "multus/internal/agent/hotplug", "multus/internal/agent/metrics",
		"multus/internal/agent/podstatus", "multus/internal/agent/repair", "multus/internal/agent/resync",
	},
	"multus/internal/source/kube": {"multus/internal/source/dra"},
	"multus/internal/doctor":      {"multus/internal/agent/cniconfig", "multus/internal/source/kube"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// product lists the packages of the product: neither this one nor the helpers for tests in internal/testutil, which no
// package of the product may import.
func product(t *testing.T) []pkg {
	t.Helper()
	return slices.DeleteFunc(list(t, "./cmd/...", "./internal/...", "./wire/..."), func(p pkg) bool {
		return p.ImportPath == "multus/internal/arch" || strings.HasPrefix(p.ImportPath, "multus/internal/testutil/")
	})
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, args...)...)
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func rank(path string) int {
	best, at := 0, -1
	for i, layer := range ranks {
		for _, p := range layer {
			if (path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")) && len(p) > best {
				best, at = len(p), i
			}
		}
	}
	return at
}

// TestImportsPointDown checks that a package imports only packages of lower layers, and that every package has a layer.
func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	for _, p := range product(t) {
		from := rank(p.ImportPath)
		if from < 0 {
			t.Errorf("%s is in no layer: add it to ranks", p.ImportPath)
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, "multus/") || slices.Contains(beside[p.ImportPath], imp) {
				continue
			}
			if to := rank(imp); to <= from {
				t.Errorf("%s (layer %d) imports %s (layer %d)", p.ImportPath, from, imp, to)
			}
		}
	}
}

// TestOnlyImporters checks that only link imports netlink, only source/kube client-go, and only agent/trace
// OpenTelemetry (docs/architecture.md). Parts of the agent may also import client-go's work queue, which does not
// depend on an API server.
func TestOnlyImporters(t *testing.T) {
	t.Parallel()
	only := map[string]string{
		"github.com/vishvananda/netlink": "multus/internal/link",
		"github.com/vishvananda/netns":   "multus/internal/link",
		"k8s.io/client-go":               "multus/internal/source/kube",
		"go.opentelemetry.io":            "multus/internal/agent/trace",
	}
	queues := []string{
		"multus/internal/agent/claims", "multus/internal/agent/hotplug", "multus/internal/agent/podstatus",
	}
	for _, p := range product(t) {
		for _, imp := range p.Imports {
			for lib, owner := range only {
				if imp == "k8s.io/client-go/util/workqueue" && slices.Contains(queues, p.ImportPath) {
					continue
				}
				if (imp == lib || strings.HasPrefix(imp, lib+"/")) && p.ImportPath != owner {
					t.Errorf("%s imports %s, which belongs to %s", p.ImportPath, imp, owner)
				}
			}
		}
	}
}

// TestErrorsAreInTheCatalogue checks that errors with advice are made by an ID of the catalogue in package fault, from
// which docs/errors.md is made.
func TestErrorsAreInTheCatalogue(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir(filepath.Join(root(t), "internal"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("fault.Error{")) {
			t.Errorf("%s makes an error that is not in the catalogue", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsLinked checks which modules the binaries may link.
func TestWhatIsLinked(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		binary    string
		forbidden []string
	}{
		{"./cmd/multus-shim", []string{"k8s.io/", "sigs.k8s.io/", "net/http", "crypto/tls", "text/template"}},
		{"./cmd/passthru", []string{"k8s.io/", "net/http", "multus/internal/engine"}},
		{"./cmd/multus", []string{"k8s.io/client-go/kubernetes"}},
		{"./cmd/multusctl", []string{"k8s.io/client-go/kubernetes", "github.com/spf13/cobra/doc"}},
	} {
		for _, dep := range list(t, tc.binary)[0].Deps {
			if slices.ContainsFunc(tc.forbidden, func(f string) bool {
				return dep == strings.TrimSuffix(f, "/") || strings.HasPrefix(dep, strings.TrimSuffix(f, "/")+"/")
			}) {
				t.Errorf("%s links %s", tc.binary, dep)
			}
		}
	}
}

// linked is the number of packages that each binary links from the standard library and from other modules. The
// project's own packages do not count: their layout is free, and a dependency must not be able to take the place of a
// package that was merged into another.
var linked = map[string]int{
	"./cmd/multus-shim": 115, "./cmd/multus": 461, "./cmd/multus-daemon": 551, "./cmd/multusctl": 473,
	"./cmd/passthru": 95,
}

// TestHowMuchIsLinked checks that the numbers do not grow.
func TestHowMuchIsLinked(t *testing.T) {
	t.Parallel()
	for binary, most := range linked {
		deps := slices.DeleteFunc(list(t, binary)[0].Deps, func(p string) bool { return strings.HasPrefix(p, "multus/") })
		t.Logf("%s links %d packages of others", binary, len(deps))
		if len(deps) > most {
			t.Errorf("%s links %d packages of others, they were at most %d", binary, len(deps), most)
		}
	}
}

// maxShim is the size limit of multus-shim: 5 MB.
const maxShim = 5_000_000

// TestShimSize checks the size of the plugin, because it is read and started for every pod.
func TestShimSize(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "multus-shim")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-gcflags=multus/...=-l", "-ldflags", "-s -w",
		"-o", out, "./cmd/multus-shim") // as make build
	cmd.Dir, cmd.Env = root(t), append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("multus-shim has %d bytes", info.Size())
	if info.Size() > maxShim {
		t.Errorf("multus-shim has %d bytes, more than %d", info.Size(), maxShim)
	}
}
