package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	kindNetwork       = "NetworkAttachmentDefinition"
	apiVersionNetwork = "k8s.cni.cncf.io/v1"
	kindPod           = "Pod"
	apiVersionPod     = "v1"
	kindListSuffix    = "List"
)

// object is the part of a definition or a pod that Multus uses.
type object struct {
	document int // its number in the file, from 1
	typeMeta
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		UID         string            `json:"uid"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec spec `json:"spec"`
}

type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

type spec struct {
	Config      string `json:"config"`
	HostNetwork bool   `json:"hostNetwork"`
}

// decode decodes all documents of a file. A document that cannot be decoded is a problem that names it. The other
// documents are still decoded.
func decode(path string, data []byte) (objects []object, problems []error) {
	for i, document := range split(data) {
		if blank(document) {
			continue
		}
		found, err := decodeDocument(document, i+1)
		objects = append(objects, found...)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: document %d: %w", path, i+1, err))
		}
	}
	return objects, problems
}

func decodeDocument(document []byte, number int) ([]object, error) {
	if json.Valid(document) {
		return decodeObject(document, number) // JSON may be indented with tabs, YAML may not
	}
	// Strict, because otherwise one of two equal keys would be dropped silently.
	data, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return nil, err
	}
	return decodeObject(data, number)
}

// decodeObject checks the kind first, because only the kinds that Multus uses have a known structure. A list, as
// `kubectl get -o yaml` prints it, has several objects.
func decodeObject(data []byte, number int) ([]object, error) {
	var meta typeMeta
	if err := json.Unmarshal(data, &meta); err != nil {
		return nil, fmt.Errorf("read apiVersion and kind: %w", err)
	}
	switch {
	case meta.Kind == "":
		return nil, errors.New("it has no kind")
	case meta.Kind == kindNetwork:
		return one(data, meta, apiVersionNetwork, number)
	case meta.Kind == kindPod:
		return one(data, meta, apiVersionPod, number)
	case strings.HasSuffix(meta.Kind, kindListSuffix):
		return items(data, number)
	}
	return nil, nil // Multus does not use the other kinds
}

func one(data []byte, meta typeMeta, apiVersion string, number int) ([]object, error) {
	if meta.APIVersion != apiVersion {
		return nil, fmt.Errorf("apiVersion of a %s is %q, must be %q", meta.Kind, meta.APIVersion, apiVersion)
	}
	o := object{document: number}
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("read %s: %w", meta.Kind, err)
	}
	if o.Metadata.Name == "" {
		return nil, fmt.Errorf("a %s has no metadata.name", meta.Kind)
	}
	if o.Metadata.Namespace == "" {
		o.Metadata.Namespace = DefaultNamespace
	}
	return []object{o}, nil
}

func items(data []byte, number int) ([]object, error) {
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read items of the list: %w", err)
	}
	var objects []object
	var problems []error
	for i, item := range list.Items {
		var meta typeMeta
		if json.Unmarshal(item, &meta) == nil && strings.HasSuffix(meta.Kind, kindListSuffix) {
			continue // lists in lists are not valid, and could be nested without limit
		}
		found, err := decodeObject(item, number)
		objects = append(objects, found...)
		if err != nil {
			problems = append(problems, fmt.Errorf("item %d: %w", i+1, err))
		}
	}
	return objects, errors.Join(problems...)
}

// split splits a YAML stream at its document markers. It does so before the documents are parsed, so that an invalid
// document does not affect the others. YAML permits a marker only between documents. Only the last document may be
// blank, so that the numbers of the documents are those that a reader counts.
func split(data []byte) [][]byte {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	documents := [][]byte{nil}
	for line := range bytes.Lines(data) {
		rest, marked := bytes.CutPrefix(line, []byte("---"))
		begin := marked && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
		end := bytes.HasPrefix(line, []byte("...")) && blank(line[3:])
		last := len(documents) - 1
		if !begin && !end {
			documents[last] = append(documents[last], line...)
			continue
		}
		if !blank(documents[last]) {
			documents = append(documents, nil)
			last++
		}
		documents[last] = nil // also drops directives, which apply to this document only
		if begin {
			documents[last] = append(documents[last], rest...)
		}
	}
	return documents
}

// blank reports whether a document has only comments, directives and white space.
func blank(document []byte) bool {
	for line := range bytes.Lines(document) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}
