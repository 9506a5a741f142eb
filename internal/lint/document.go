package lint

import (
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"multus/internal/cniconf"
	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

// network is a network definition.
type network struct {
	object
	ref plan.Ref
	at  mark
	// config is spec.config. list and tree are nil if it is invalid or empty.
	config   text
	list     *cniconf.List
	tree     *tree
	resource text
	// usable reports whether a pod can use the definition.
	usable bool
}

// pod is a pod, or the pod template of a workload.
type pod struct {
	object
	namespace   string
	annotations map[string]text
	// resources are the resources that its containers request. hasContainers reports whether the pod has a list of
	// containers.
	resources     map[string]bool
	hasContainers bool
	// hostNetwork reports whether the pod uses the network of its node.
	hostNetwork bool
	// replacement and selected are the elements of its annotations, default-network and networks.
	replacement, selected []selected
	// attachments are those that ADD would make. The first one is the cluster network.
	attachments []plan.Attachment
}

// line matches the line number in errors of the YAML library, which has no type for it.
var line = regexp.MustCompile(`line (\d+): (.*)`)

// read reads the objects of a file. It cannot read what follows an invalid document.
func (l *linter) read(i int, f File) {
	lines := split(f.Data)
	o := object{linter: l, file: i}
	dec := yaml.NewDecoder(strings.NewReader(string(f.Data)))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			at, msg := mark{1, 1}, err.Error()
			if m := line.FindStringSubmatch(msg); m != nil {
				at.line, _ = strconv.Atoi(m[1])
				msg = m[2]
			}
			o.add(at, Error, "yaml", "correct the YAML; indent with spaces, not tabs, and quote strings with : or #", "%s",
				msg)
			return
		}
		if len(doc.Content) > 0 {
			o.document(lines, doc.Content[0])
		}
	}
}

// document reads one object, or the items of a list.
func (o object) document(lines [][]rune, n *yaml.Node) {
	root := yamlMap{n}
	kind := root.get("kind")
	at := mark{n.Line, n.Column}
	switch {
	case n.Kind != yaml.MappingNode:
		if n.Tag != "!!null" {
			o.add(at, Error, "object", "write an object with apiVersion, kind and metadata", "the document is not an object")
		}
		return
	case kind == nil:
		o.add(at, Error, "object", "give it a kind: NetworkAttachmentDefinition or Pod", "the object has no kind")
		return
	case strings.HasSuffix(kind.Value, "List"):
		if items := root.get("items"); items != nil {
			for _, item := range items.Content {
				o.document(lines, item)
			}
		}
		return
	}
	namespace := "default"
	meta := yamlMap{root.get("metadata")}
	if ns := meta.get("namespace"); ns != nil && ns.Value != "" {
		namespace = ns.Value
	}
	name := ""
	if nn := meta.get("name"); nn != nil {
		name = nn.Value
	}
	o.name = kind.Value + " " + namespace + "/" + name
	switch kind.Value {
	case "NetworkAttachmentDefinition":
		root.duplicates(o)
		o.definition(lines, root, plan.Ref{Namespace: namespace, Name: name}, at)
	case "Pod":
		root.duplicates(o)
		o.version(root, "v1")
		o.named(meta, at, name)
		o.template(lines, root, namespace)
	default:
		if v := root.get("apiVersion"); v != nil && strings.HasPrefix(v.Value, "k8s.cni.cncf.io/") &&
			nearest(kind.Value, []string{"NetworkAttachmentDefinition"}) != "" {
			o.add(mark{kind.Line, kind.Column}, Error, "object", "write NetworkAttachmentDefinition",
				"kind %q does not exist in %s", kind.Value, v.Value)
			return
		}
		o.workload(lines, root, namespace)
	}
}

// definition reads a network definition.
func (o object) definition(lines [][]rune, root yamlMap, ref plan.Ref, at mark) {
	o.version(root, "k8s.cni.cncf.io/v1")
	meta := yamlMap{root.get("metadata")}
	o.named(meta, at, ref.Name)
	n := &network{object: o, ref: ref, at: at}
	if r := (yamlMap{meta.get("annotations")}).get(netsel.ResourceName); r != nil {
		n.resource = newText(lines, r)
	}
	if other, ok := o.networks[ref]; ok && ref.Name != "" {
		o.add(at, Error, "duplicate-object", "remove all but one", "%s is already defined, in line %d of file %d", ref,
			other.at.line, other.file+1)
	}
	o.networks[ref] = n
	o.order = append(o.order, n)
	n.readSpec(lines, root)
}

// readSpec reads spec.config.
func (n *network) readSpec(lines [][]rune, root yamlMap) {
	spec := yamlMap{root.get("spec")}
	config := spec.get("config")
	if config != nil && config.Kind == yaml.ScalarNode {
		n.config = newText(lines, config)
		if config.Tag != "!!str" && config.Tag != "!!null" {
			n.add(n.config.start, Error, "config", `write the configuration as a string: config: | and JSON below it`,
				"spec.config must be a string, not %s", config.Value)
		}
	}
	switch {
	case config != nil && config.Kind != yaml.ScalarNode:
		n.add(mark{config.Line, config.Column}, Error, "config",
			"write the configuration as a string: config: | and JSON below it",
			"spec.config is an object, not a string of JSON")
		n.config.start = mark{}
	case config == nil:
		for key, at := range spec.keys() {
			if nearest(key, []string{"config"}) != "" {
				n.add(at, Error, "config", "call it config", "spec has %q and no config", key)
				return
			}
		}
		n.fromFile(n.at)
	}
}

// version checks the apiVersion.
func (o object) version(root yamlMap, want string) {
	v := root.get("apiVersion")
	switch {
	case v == nil:
		o.add(mark{root.Line, root.Column}, Error, "api-version", "add apiVersion: "+want, "the object has no apiVersion")
	case v.Value != want:
		o.add(mark{v.Line, v.Column}, Error, "api-version", "write "+want, "apiVersion is %q", v.Value)
	}
}

var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// named checks metadata.name. A pod may have generateName instead.
func (o object) named(meta yamlMap, at mark, name string) {
	nn := meta.get("name")
	switch {
	case name == "" && meta.get("generateName") == nil:
		o.add(at, Error, "name", "give it a metadata.name", "the object has no name")
	case name != "" && (len(name) > 253 || !subdomain.MatchString(name)):
		o.add(mark{nn.Line, nn.Column}, Error, "name", "use lower case letters, digits, - and .",
			"%q is not a name that the API server accepts", name)
	case strings.Contains(name, ".") && strings.HasPrefix(o.name, "NetworkAttachmentDefinition"):
		o.add(mark{nn.Line, nn.Column}, Warning, "name", "use - in place of .",
			"%q can be named in the JSON form of the annotation only", name)
	}
}

// workload reads the pod template of a workload such as a Deployment, DaemonSet or CronJob. It reports annotations of
// the workload that should be in the template.
func (o object) workload(lines [][]rune, root yamlMap, namespace string) {
	spec := yamlMap{root.get("spec")}
	if job := (yamlMap{spec.get("jobTemplate")}).get("spec"); job != nil {
		spec = yamlMap{job}
	}
	template := spec.get("template")
	if template == nil {
		return
	}
	meta := yamlMap{root.get("metadata")}
	for key, at := range (yamlMap{meta.get("annotations")}).keys() {
		if key == netsel.Networks || key == netsel.DefaultNetwork {
			o.add(at, Warning, "annotation-place", "move it to the metadata of the pod template",
				"the annotation %s of the workload itself attaches nothing to its pods", key)
		}
	}
	o.template(lines, yamlMap{template}, namespace)
}

// template reads an object with the metadata and spec of a pod.
func (o object) template(lines [][]rune, root yamlMap, namespace string) {
	p := &pod{object: o, namespace: namespace, annotations: map[string]text{}, resources: map[string]bool{}}
	meta := yamlMap{root.get("metadata")}
	annotations := yamlMap{meta.get("annotations")}
	for key, at := range annotations.keys() {
		v := annotations.get(key)
		if v.Kind == yaml.ScalarNode {
			p.annotations[key] = newText(lines, v)
		} else {
			o.add(mark{v.Line, v.Column}, Error, "annotation", "put it into single quotes, or below a |",
				"the value of annotation %s is not a string", key)
		}
		known := []string{netsel.Networks, netsel.DefaultNetwork}
		if near := nearest(key, known); near != "" && near != key && key != netsel.Status {
			o.add(at, Warning, "annotation-name", "write "+near, "the annotation %s has no meaning", key)
		}
	}
	if v := (yamlMap{root.get("spec")}).get("hostNetwork"); v != nil {
		p.hostNetwork = v.Value == "true"
	}
	for _, list := range []string{"containers", "initContainers"} {
		containers := yamlMap{root.get("spec")}.get(list)
		if containers == nil {
			continue
		}
		p.hasContainers = true
		for _, c := range containers.Content {
			for key := range (yamlMap{(yamlMap{(yamlMap{c}).get("resources")}).get("limits")}).keys() {
				p.resources[key] = true
			}
			for key := range (yamlMap{(yamlMap{(yamlMap{c}).get("resources")}).get("requests")}).keys() {
				p.resources[key] = true
			}
		}
	}
	p.replacement = p.elements(netsel.DefaultNetwork, o.options.plugin().MultusNamespace)
	p.selected = p.elements(netsel.Networks, namespace)
	o.pods = append(o.pods, p)
}
