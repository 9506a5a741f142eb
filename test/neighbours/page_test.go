package neighbours

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multus/internal/testutil/node"
)

var update = flag.Bool("update", false, "write docs/ecosystem.md")

// begin is the line after which the page is generated. The text before it is written by hand.
const begin = "<!-- From here on: go test ./test/neighbours -run TestPage -update -->\n"

// TestPage checks that docs/ecosystem.md contains the tables of the tests and the versions that tools pins.
func TestPage(t *testing.T) {
	t.Parallel()
	file := filepath.Join(node.Root(t), "docs", "ecosystem.md")
	b, err := os.ReadFile(file)
	check(t, err)
	guide, got, ok := strings.Cut(string(b), begin)
	if !ok {
		t.Fatalf("%s has no line %q", file, begin)
	}
	want := page(t)
	if *update {
		check(t, os.WriteFile(file, []byte(guide+begin+want), 0o644))
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("not what the tests have: go test ./test/neighbours -run TestPage -update (-tests +page):\n%s", diff)
	}
}

// TestTables checks that every row is complete and has a unique name, and that every stand-in is run.
func TestTables(t *testing.T) {
	t.Parallel()
	names, playing := map[string]bool{}, map[string]bool{}
	for _, n := range neighbours {
		if names[n.name] || n.runs == "" || n.software.name == "" || (n.config == nil) == (n.primary == nil) {
			t.Errorf("row %q is incomplete, or is there twice", n.name)
		}
		names[n.name], playing[n.software.name] = true, true
		if n.software.module == "" && standIns[n.software.name] == "" {
			t.Errorf("row %q: nothing is known of the stand-in %s", n.name, n.software.name)
		}
	}
	for name := range standIns {
		if !playing[name] {
			t.Errorf("the stand-in for %s is in no row", name)
		}
	}
	for _, sc := range scenarios {
		if names[sc.name] || sc.description == "" || sc.run == nil {
			t.Errorf("scenario %q is incomplete, or is there twice", sc.name)
		}
		names[sc.name] = true
	}
}

// runtimes are the container runtimes and how the tests use each.
var runtimes = [][]string{
	{"CRI-O", "not run", "its calls are made through libcni: ADD and CHECK right after it; when it starts " +
		"STATUS, CHECK of every sandbox and GC with `cni.dev/valid-attachments` and `cni.dev/attachments`, " +
		"`null` without sandboxes; DEL"},
	{"containerd", "real, %s, in `test/realnode`", "here its calls are made through libcni: ADD, DEL, STATUS, " +
		"with the pod's annotations; it never sends CHECK or GC"},
	{"kubelet, API server", "real, %s", "the kubelet in `test/realnode` only"},
}

// notRun is software that was never run with this project.
var notRun = []string{
	"multus-dynamic-networks-controller: `test/e2e` sends the requests of its client (`POST /delegate`), see hot-plug.md.",
	"The SR-IOV device plugin and its CNI plugins, dra-driver-sriov: they need hardware.",
	"KubeVirt: the scenario `interfaces rearranged` does by hand what its bridge binding does to a pod.",
	"kube-OVN, Antrea, Spiderpool, Submariner, MultiNetworkPolicy controllers.",
	"Windows nodes.",
}

func page(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n## Plugins\n\n")
	var rows [][]string
	for _, n := range neighbours {
		rows = append(rows, n.row(t))
	}
	table(&b, []string{
		"software", "version", "real or stand-in", "what is run", "deployments", "what is shown", "limits",
		"test",
	}, rows)

	b.WriteString("\n## Scenarios\n\n")
	rows = nil
	for _, sc := range scenarios {
		rows = append(rows, []string{sc.description, where(sc.on), "`TestScenarios/" + strings.ReplaceAll(sc.name, " ", "_") + "`"})
	}
	table(&b, []string{"what is shown", "deployments", "test"}, rows)

	b.WriteString("\n## Runtimes\n\n")
	rows = nil
	versions := []string{
		"", pinned(t, "containerd", "github.com/containerd/containerd/v2"),
		pinned(t, "kube", "k8s.io/kubernetes"),
	}
	for i, r := range runtimes {
		how := r[1]
		if strings.Contains(how, "%s") {
			how = fmt.Sprintf(how, versions[i])
		}
		rows = append(rows, []string{r[0], how, r[2]})
	}
	table(&b, []string{"software", "real or played", "which calls"}, rows)

	b.WriteString("\n## What the stand-ins play\n\n")
	rows = nil
	for name, plays := range standIns {
		rows = append(rows, []string{"`" + name + "`", plays})
	}
	slices.SortFunc(rows, slices.Compare)
	table(&b, []string{"plugin", "behaviour"}, rows)

	b.WriteString("\n## Not run\n\n")
	for _, what := range notRun {
		b.WriteString("- " + what + "\n")
	}
	return b.String()
}

// row returns the line of the page for a neighbour. The column of what is shown depends on what run does.
func (n *neighbour) row(t *testing.T) []string {
	t.Helper()
	version, kind, on := "–", "stand-in", deployments
	if n.software.module != "" {
		version, kind = pinned(t, n.software.tool, n.software.module), "real"
	}
	if n.software == whereabouts {
		on = withAPI
	}
	shown := "ADD, CHECK, GC, DEL"
	if n.ping != "" {
		shown = "ADD, CHECK, GC, traffic, DEL"
	}
	return []string{
		n.software.name, version, kind, n.runs, where(on), shown + "; nothing left", n.limits,
		"`TestNeighbours/*/" + n.name + "`",
	}
}

// where returns the names of deployments, or "all".
func where(on []deployment) string {
	if len(on) == 0 || len(on) == len(deployments) {
		return "all"
	}
	var names []string
	for _, d := range on {
		names = append(names, d.name)
	}
	return strings.Join(names, ", ")
}

// pinned returns the version of a module that is pinned in a directory of tools.
func pinned(t *testing.T, dir, module string) string {
	t.Helper()
	path := filepath.Join(node.Root(t), "tools", dir, "go.mod")
	b, err := os.ReadFile(path)
	check(t, err)
	for line := range bytes.Lines(b) {
		if f := strings.Fields(strings.TrimPrefix(string(line), "require")); len(f) > 1 && f[0] == module &&
			strings.HasPrefix(f[1], "v") {
			return strings.TrimPrefix(f[1], "v")
		}
	}
	t.Fatalf("%s does not pin %s", path, module)
	return ""
}

func table(b *strings.Builder, head []string, rows [][]string) {
	line := func(cells []string) {
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	line(head)
	b.WriteString(strings.Repeat("|---", len(head)) + "|\n")
	for _, r := range rows {
		line(r)
	}
}
