package lint

import (
	"cmp"
	"errors"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"multus/internal/cniconf"
	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

const (
	kindDefinition = "NetworkAttachmentDefinition"
	kindPod        = "Pod"
)

// object is a document of a file, or an item of a list.
type object struct {
	file  int
	lines [][]rune
	root  node
	at    mark
	// kind is empty if the document is not an object.
	kind, namespace, name string
	// invalid is the reason why the document is not YAML.
	invalid string
	// ignored are the rules that do not apply to the object.
	ignored []string
}

// String returns kind namespace/name, or "" for a document that is not an object.
func (o *object) String() string {
	if o.kind == "" {
		return ""
	}
	return o.kind + " " + o.namespace + "/" + o.name
}

// network is a network definition.
type network struct {
	*object
	ref      plan.Ref
	resource string
	// config is spec.config, if that is a scalar. list and tree are nil if it is invalid or blank.
	config text
	list   *cniconf.List
	tree   *tree
	// usable reports whether a pod can use the definition.
	usable bool
}

// pod is a pod, or the pod template of a workload.
type pod struct {
	*object
	meta        node
	annotations map[string]text
	// elements are those of the annotations networks and default-network, by its key.
	elements map[string][]*element
	// attachments are those that ADD would make. The first one is the cluster network.
	attachments []plan.Attachment
	// resources are how many of each resource its containers request. hasContainers reports whether the pod has a list of
	// containers.
	resources     map[string]int
	hasContainers bool
	// claims are the names of its ResourceClaims. What devices they get is not known.
	claims []string
	// hostNetwork reports whether the pod uses the network of its node.
	hostNetwork bool
}

// line matches the line number in errors of the YAML library, which has no type for it.
var line = regexp.MustCompile(`line (\d+): (.*)`)

// read reads the objects of a file. It cannot read what follows an invalid document.
func (l *linter) read(i int, f File) {
	lines := split(f.Data)
	source, moved := readable(f, lines)
	dec := yaml.NewDecoder(strings.NewReader(source))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			o := &object{file: i, at: mark{1, 1}, invalid: err.Error()}
			if m := line.FindStringSubmatch(o.invalid); m != nil {
				o.at.line, _ = strconv.Atoi(m[1])
				o.invalid = m[2]
			}
			l.objects = append(l.objects, o)
			return
		}
		if len(doc.Content) > 0 {
			moved.apply(doc.Content[0])
			l.document(i, lines, node{doc.Content[0]})
		}
	}
}

// document reads one object, or the items of a list.
func (l *linter) document(file int, lines [][]rune, root node) {
	meta := root.get("metadata")
	separator := func(r rune) bool { return r == ',' || r == ' ' }
	o := &object{
		file: file, lines: lines, root: root, at: root.mark(), kind: root.get("kind").text(),
		namespace: cmp.Or(meta.get("namespace").text(), "default"), name: meta.get("name").text(),
		ignored: strings.FieldsFunc(meta.get("annotations").get(Ignore).text(), separator),
	}
	if strings.HasSuffix(o.kind, "List") {
		for _, item := range root.get("items").items() {
			l.document(file, lines, node{item})
		}
		return
	}
	l.objects = append(l.objects, o)
	switch o.kind {
	case "":
	case kindDefinition:
		l.definition(o)
	case kindPod:
		l.template(o, root)
	default: // a workload, such as a Deployment, DaemonSet or CronJob, has a template
		spec := root.get("spec")
		if job := spec.get("jobTemplate").get("spec"); job.exists() {
			spec = job
		}
		if template := spec.get("template"); template.exists() {
			l.template(o, template)
		}
	}
}

// definition reads a network definition.
func (l *linter) definition(o *object) {
	n := &network{
		object: o, ref: plan.Ref{Namespace: o.namespace, Name: o.name},
		resource: o.root.get("metadata").get("annotations").get(netsel.ResourceName).text(),
	}
	l.networks[n.ref] = n
	l.defined = append(l.defined, n)
	config := o.root.get("spec").get("config")
	if !config.exists() || config.Kind != yaml.ScalarNode {
		return
	}
	n.config = newText(o.lines, config.Node)
	list, err := cniconf.Parse([]byte(n.config.value))
	if err == nil {
		n.tree, err = parseTree(n.config.value)
	}
	if err == nil {
		n.list = list
	}
}

// template reads a pod, or the pod template of a workload.
func (l *linter) template(o *object, root node) {
	spec := root.get("spec")
	p := &pod{
		object: o, meta: root.get("metadata"), annotations: map[string]text{}, resources: map[string]int{},
		hostNetwork: spec.get("hostNetwork").text() == "true",
	}
	for key, v := range p.meta.get("annotations").pairs() {
		if _, repeated := p.annotations[key.Value]; !repeated && v.Kind == yaml.ScalarNode {
			p.annotations[key.Value] = newText(o.lines, v.Node)
		}
	}
	for _, c := range spec.get("resourceClaims").items() {
		p.claims = append(p.claims, (node{c}).get("name").text())
	}
	for _, list := range []string{"containers", "initContainers"} {
		p.hasContainers = p.hasContainers || spec.get(list).exists()
		for _, c := range spec.get(list).items() {
			resources := (node{c}).get("resources")
			limits := map[string]bool{}
			for key, value := range resources.get("limits").pairs() {
				limits[key.Value] = true
				p.resources[key.Value] += quantity(value)
			}
			for key, value := range resources.get("requests").pairs() {
				if !limits[key.Value] { // the two of a device are equal
					p.resources[key.Value] += quantity(value)
				}
			}
		}
	}
	conf := l.options.plugin()
	p.elements = map[string][]*element{
		netsel.DefaultNetwork: p.parse(netsel.DefaultNetwork, conf.MultusNamespace, conf.NetworkLimit()),
		netsel.Networks:       p.parse(netsel.Networks, o.namespace, conf.NetworkLimit()),
	}
	l.pods = append(l.pods, p)
}

// quantity returns the number of devices that a container requests. Anything but a plain number is taken for enough.
func quantity(value node) int {
	n, err := strconv.ParseUint(value.text(), 10, 16)
	if err != nil {
		return math.MaxUint16
	}
	return int(n)
}

// checkYAML also reports repeated keys. Clients of the API server differ in which of them counts.
func checkYAML(r *reporter, o *object) {
	if o.invalid != "" {
		r.add(o, o.at, "correct the YAML; indent with spaces, not tabs, and quote strings with : or #", "%s", o.invalid)
	}
	if o.kind == kindDefinition || o.kind == kindPod {
		o.root.duplicates(func(key node) {
			r.add(o, key.mark(), "remove one of them", "the key %q is duplicated", key.Value)
		})
	}
}

func checkObject(r *reporter, o *object) {
	kind, version := o.root.get("kind"), o.root.get("apiVersion").text()
	switch {
	case o.invalid != "":
	case o.root.Kind != yaml.MappingNode && o.root.Tag != "!!null":
		r.add(o, o.at, "write an object with apiVersion, kind and metadata", "the document is not an object")
	case o.root.Kind == yaml.MappingNode && o.kind == "":
		r.add(o, o.at, "give it a kind: NetworkAttachmentDefinition or Pod", "the object has no kind")
	case o.kind != kindDefinition && strings.HasPrefix(version, "k8s.cni.cncf.io/") &&
		nearest(o.kind, []string{kindDefinition}) != "":
		r.add(o, kind.mark(), "write NetworkAttachmentDefinition", "kind %q does not exist in %s", o.kind, version)
	}
}

func checkAPIVersion(r *reporter, o *object) {
	want := "v1"
	if o.kind == kindDefinition {
		want = "k8s.cni.cncf.io/v1"
	}
	switch v := o.root.get("apiVersion"); {
	case !v.exists():
		r.add(o, o.at, "add apiVersion: "+want, "the object has no apiVersion")
	case v.Value != want:
		r.add(o, v.mark(), "write "+want, "apiVersion is %q", v.Value)
	}
}

var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// checkName checks metadata.name. A pod may have generateName instead.
func checkName(r *reporter, o *object) {
	meta := o.root.get("metadata")
	switch {
	case o.name == "" && !meta.get("generateName").exists():
		r.add(o, o.at, "give it a metadata.name", "the object has no name")
	case o.name != "" && (len(o.name) > 253 || !subdomain.MatchString(o.name)):
		r.add(o, meta.get("name").mark(), "use lower case letters, digits, - and .",
			"%q is not a name that the API server accepts", o.name)
	case strings.Contains(o.name, ".") && o.kind == kindDefinition:
		r.warn(o, meta.get("name").mark(), "use - in place of .", "%q can be named in the JSON form of the annotation only",
			o.name)
	}
}

// checkUnique reports a definition of which there is an earlier one, and the last of these.
func checkUnique(r *reporter, n *network) {
	earlier := r.defined[:slices.Index(r.defined, n)]
	for _, other := range slices.Backward(earlier) {
		if other.ref == n.ref && n.name != "" {
			r.add(n.object, n.at, "remove all but one", "%s is already defined, in line %d of file %d", n.ref, other.at.line,
				other.file+1)
			return
		}
	}
}

// checkAnnotationPlace reports annotations of a workload that should be in its template.
func checkAnnotationPlace(r *reporter, p *pod) {
	if p.kind == kindPod {
		return
	}
	for key := range p.root.get("metadata").get("annotations").pairs() {
		if key.Value == netsel.Networks || key.Value == netsel.DefaultNetwork {
			r.add(p.object, key.mark(), "move it to the metadata of the pod template",
				"the annotation %s of the workload itself attaches nothing to its pods", key.Value)
		}
	}
}

func checkAnnotationKinds(r *reporter, p *pod) {
	for key, v := range p.meta.get("annotations").pairs() {
		if v.Kind != yaml.ScalarNode {
			r.add(p.object, v.mark(), "put it into single quotes, or below a |", "the value of annotation %s is not a string",
				key.Value)
		}
	}
}

func checkAnnotationNames(r *reporter, p *pod) {
	for key := range p.meta.get("annotations").pairs() {
		near := nearest(key.Value, []string{netsel.Networks, netsel.DefaultNetwork})
		if near != "" && near != key.Value && key.Value != netsel.Status {
			r.add(p.object, key.mark(), "write "+near, "the annotation %s has no meaning", key.Value)
		}
	}
}
