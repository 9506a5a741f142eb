package realnode

import (
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/cli"
	"multus/internal/doctor"
	"multus/internal/testutil/cluster"
)

// Sizes of the picture of a terminal: its columns, and in pixels those of a character, of a line and of the frame.
const (
	columns    = 100
	charWidth  = 7.8
	lineHeight = 18
	frame      = 16
	titleBar   = 30
)

const terminalStyle = `
  rect { fill: #16181d; } rect.bar { fill: #2a2e37; }
  text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d8dbe2;
    white-space: pre; }
  .command { fill: #fff; font-weight: bold; } .green { fill: #7fd88f; } .red { fill: #ff8a80; } .yellow { fill: #f0c674; }`

// painted are the words at the begin of a line that multusctl paints on a terminal, with their colours.
var painted = map[string]string{
	"ok": "green", "FOUND": "red", "unchecked": "yellow", "error": "red", "warning": "yellow",
}

// terminal draws a command and what it prints as a terminal shows them, in SVG. It has no fonts of its own.
func terminal(command, output string) string {
	lines := []string{`<tspan class="command">$ ` + html.EscapeString(command) + `</tspan>`}
	for line := range strings.Lines(output) {
		for i, part := range wrapped(strings.TrimRight(line, "\n")) {
			word := regexp.MustCompile(`^\w*`).FindString(part)
			text := html.EscapeString(part)
			if colour := painted[word]; colour != "" && i == 0 {
				text = fmt.Sprintf(`<tspan class="%s">%s</tspan>%s`, colour, word, strings.TrimPrefix(text, word))
			}
			lines = append(lines, text)
		}
	}
	width, height := int(charWidth*columns)+2*frame, titleBar+lineHeight*len(lines)+2*frame
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s"><style>%s</style>`,
		width, height, html.EscapeString(command), terminalStyle)
	fmt.Fprintf(&b, "\n"+`<rect width="%d" height="%d" rx="8"/><rect class="bar" width="%d" height="%d" rx="8"/>`+"\n",
		width, height, width, titleBar)
	for i, colour := range []string{"#ff5f57", "#febc2e", "#28c840"} {
		fmt.Fprintf(&b, `<circle cx="%d" cy="%d" r="5" fill="%s"/>`, frame+4+18*i, titleBar/2, colour)
	}
	for i, line := range lines {
		if line != "" {
			fmt.Fprintf(&b, "\n"+`<text x="%d" y="%d" xml:space="preserve">%s</text>`, frame,
				titleBar+frame+lineHeight*i+13, line)
		}
	}
	return b.String() + "\n</svg>\n"
}

// hanging matches what is left of the last column of a row of a table, or a word with a colon that begins a line.
var hanging = regexp.MustCompile(`^(?:\S+ {2,}\S+ +| +\w+: +)`)

// wrapped breaks a line between words, so that each part fits the columns. The parts after the first one begin at the
// column of the text, or two columns further than the line.
func wrapped(line string) []string {
	indent := strings.Repeat(" ", len(line)-len(strings.TrimLeft(line, " "))+2)
	if left := hanging.FindString(line); left != "" {
		indent = strings.Repeat(" ", len(left))
	}
	var out []string
	rest := []rune(line)
	for len(rest) > columns {
		at := columns
		for at > len(indent) && rest[at] != ' ' {
			at--
		}
		if at <= len(indent) { // a word that is longer than the line
			at = columns
		}
		out = append(out, strings.TrimRight(string(rest[:at]), " "))
		rest = []rune(indent + strings.TrimLeft(string(rest[at:]), " "))
	}
	return append(out, string(rest))
}

// texts checks that a picture is XML, and returns its texts, each in a line.
func texts(t *testing.T, picture string) (out string) {
	t.Helper()
	inside := false
	for d := xml.NewDecoder(strings.NewReader(picture)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
		switch token := token.(type) {
		case xml.StartElement:
			inside = inside || token.Name.Local == "text"
		case xml.CharData:
			if inside {
				out += string(token)
			}
		case xml.EndElement:
			if token.Name.Local == "text" {
				inside = false
				out += "\n"
			}
		}
	}
}

// draw checks a picture and its texts. With PICTURES, the name of a directory below the repository, it is written
// there.
func draw(t *testing.T, file, picture string, has ...string) {
	t.Helper()
	text := texts(t, picture)
	for _, want := range has {
		if !strings.Contains(text, want) {
			t.Errorf("%s: no %q in\n%s", file, want, text)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, local := range []string{host, repository, "/tmp", kernel(t)} {
		if strings.Contains(picture, local) {
			t.Errorf("%s has %s, which is of this machine", file, local)
		}
	}
	if dir := os.Getenv("PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(root, dir, file), []byte(picture), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// kernel returns the release of the kernel.
func kernel(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// drawGraph draws a graph, in which a pod waits for a network with a misspelt name.
func (n *node) drawGraph(t *testing.T, w *workstation) {
	for _, name := range []string{"net-a", "net-b"} {
		n.deleteNetwork(t, name)
	}
	bridge, err := os.ReadFile(filepath.Join(root, "examples", "bridge.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	n.apply(t, network("storage", 1))
	n.apply(t, string(bridge))
	pods := map[string]string{
		"web-0": "storage,backplane", "web-1": "storage,backplane", "db-0": "storage", "batch-0": "storrage",
	}
	for name, networks := range pods {
		n.apply(t, pod(name, `{k8s.v1.cni.cncf.io/networks: "`+networks+`"}`))
	}
	for name := range pods {
		until(t, name+" has its networks, or lacks one", func() error { return n.reported(t, name) })
	}
	picture := w.kubectl(t, "multus", "graph", "--format", "svg")
	draw(t, "graph.svg", picture, "default/web-0", "default/storage", "net2 ", cluster.Uplink, "asked for", "not defined")
	for name := range pods {
		n.remove(t, name)
	}
	for _, name := range []string{"storage", "backplane"} {
		n.deleteNetwork(t, name)
	}
	n.applyNetworks(t)
}

// reported returns an error until a pod has a network status, or the event that a network has no definition.
func (n *node) reported(t *testing.T, name string) error {
	t.Helper()
	p, err := n.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if _, err := networkStatus(p); err == nil {
		return nil
	}
	events, err := n.Client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{
		FieldSelector: "reason=FailedCreatePodSandBox,involvedObject.name=" + name,
	})
	if err != nil {
		return err
	}
	for _, e := range events.Items {
		if strings.Contains(e.Message, "cannot find a network-attachment-definition (storrage)") {
			return nil
		}
	}
	return fmt.Errorf("pod is %s, %d events", p.Status.Phase, len(events.Items))
}

// drawDoctor draws a run of doctor on a node on which another program has written a file that the runtime loads before
// ours, and which lacks the interface of a network.
func (n *node) drawDoctor(t *testing.T, w *workstation) {
	first := n.Path(n.paths.Conf + "/00-another-agent.conflist")
	if err := os.WriteFile(first, []byte(cluster.Primary), 0o600); err != nil {
		t.Fatal(err)
	}
	n.apply(t, strings.Replace(network("elsewhere", 8), cluster.Uplink, "eth9", 1))
	var r doctor.Report
	w.decoded(t, cli.Found, &r, "", "doctor")
	for _, check := range []string{"slot", "interfaces"} {
		if !slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool { return f.Check == check && f.Fix != "" }) {
			t.Errorf("no finding of %s among %+v", check, r.Findings)
		}
	}
	code, out, errs := w.run(t, "", "doctor", "--node", cluster.NodeName)
	if code != cli.Found || errs != "" {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	out = strings.ReplaceAll(out, kernel(t), "…")
	draw(t, "doctor.svg", terminal("kubectl multus doctor --node "+cluster.NodeName, out),
		"FOUND", "the runtime loads /etc/cni/net.d/00-another-agent.conflist", "mv /etc/cni/net.d/00-another-agent.conflist",
		"master eth9")
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	n.deleteNetwork(t, "elsewhere")
	until(t, "nothing is found", func() error {
		if code, out, errs := w.run(t, "", "doctor", "--node", cluster.NodeName); code != cli.OK {
			return fmt.Errorf("%d\n%s%s", code, out, errs)
		}
		return nil
	})
}

// TestTerminal checks the picture of a terminal: it is XML, nothing is lost, long lines are broken between words, and
// the words have their colours.
func TestTerminal(t *testing.T) {
	t.Parallel()
	long := "  fix:      mv " + strings.Repeat("a", 80) + " <b> & \"c\""
	output := "ok         slot\n\nFOUND      a\n" + long + "\nokay\n" + strings.Repeat("x", 250) + "\n"
	picture := terminal("doctor --node <x>", output)
	want := "$ doctor --node <x>\nok         slot\nFOUND      a\n  fix:      mv " + strings.Repeat("a", 80) +
		" <b>\n" + strings.Repeat(" ", 12) +
		"& \"c\"\nokay\n" + strings.Repeat("x", 100) + "\n  " + strings.Repeat("x", 98) + "\n  " +
		strings.Repeat("x", 52) + "\n"
	if got := texts(t, picture); got != want {
		t.Errorf("%s\nwant:\n%s", got, want)
	}
	if strings.Count(picture, `class="green"`) != 1 || strings.Count(picture, `class="red"`) != 1 {
		t.Errorf("%s", picture)
	}
}

// TestPictures checks that every picture of the documentation is XML, and that a page shows it with a text in its
// place.
func TestPictures(t *testing.T) {
	t.Parallel()
	docs := filepath.Join(root, "docs")
	pages, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`!\[[^\]]{20,}\]\(([^)]+\.svg)\)`).FindAllStringSubmatch(string(b), -1) {
			shown = append(shown, m[1])
		}
	}
	files, err := filepath.Glob(filepath.Join(docs, "*.svg"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if texts(t, string(b)) == "" || !slices.Contains(shown, filepath.Base(file)) {
			t.Errorf("%s has no text, or no page shows it", file)
		}
	}
}
