package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"multus/internal/engine/plan"
	"multus/internal/netsel"
)

const (
	// listPage limits the number of objects per page of a list that is decoded as a whole.
	listPage = 500
	// listTimeout limits the request of one page of a list, and reviewTimeout one access review.
	listTimeout   = 15 * time.Second
	reviewTimeout = 5 * time.Second
	// liveAnno marks a definition in a list of which only the name is kept. No object of the API server has it.
	liveAnno = "multus/read-live"
	// acceptMetadataList requests the metadata only.
	acceptMetadataList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
)

// Networks returns all network definitions of the cluster. It is for command line tools, since a daemon has a Cache.
// Its errors are those of Network.
func (c *Client) Networks(ctx context.Context) ([]plan.Definition, error) {
	var out []plan.Definition
	t := target{verb: "list", group: nadv1.SchemeGroupVersion.Group, resource: nadResource}
	err := list(ctx, c.nads, t, runtime.ContentTypeJSON, "", func(o *object) {
		out = append(out, *o.definition(plan.Ref{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}))
	})
	if err != nil {
		return nil, fmt.Errorf("list network definitions: %w", err)
	}
	return out, nil
}

// Pods returns the metadata of all pods of a node, or of all nodes if node is "". Its errors are those of Pod.
func (c *Client) Pods(ctx context.Context, node string) ([]plan.Pod, error) {
	var out []plan.Pod
	selector := ""
	if node != "" {
		selector = "spec.nodeName=" + node
	}
	err := list(ctx, c.core, target{verb: "list", resource: "pods"}, acceptMetadataList, selector, func(o *object) {
		ref := plan.Ref{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
		out = append(out, *o.pod(ref))
	})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return out, nil
}

// list calls visit for the objects of all pages, of all namespaces if the target has none.
func list[T any](ctx context.Context, client *rest.RESTClient, t target, accept, fieldSelector string,
	visit func(*T),
) error {
	for next := ""; ; {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []T `json:"items"`
		}
		r := client.Get().Namespace(t.namespace).Resource(t.resource).SetHeader("Accept", accept).Param("limit",
			fmt.Sprint(listPage)).MaxRetries(0).Timeout(listTimeout)
		if fieldSelector != "" {
			r = r.Param("fieldSelector", fieldSelector)
		}
		if next != "" {
			r = r.Param("continue", next)
		}
		if err := do(ctx, r, &page, listTimeout); err != nil {
			return lookupError(t, err)
		}
		for i := range page.Items {
			visit(&page.Items[i])
		}
		if next = page.Metadata.Continue; next == "" {
			return nil
		}
	}
}

// do sends one request and decodes the answer.
func do(ctx context.Context, r *rest.Request, into any, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result := r.Do(ctx)
	if err := result.Error(); err != nil {
		return err
	}
	body, err := result.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// readList decodes a list of network definitions as a stream, and keeps the parts of each that a Cache needs. Of
// definitions that do not fit into the budget it keeps the name only. It returns an error if the answer does not
// identify itself as such a list, whatever its HTTP status. Of annotations it keeps the resource name and the named
// ones.
func readList(r io.Reader, budget int, annotations ...string) (*nadv1.NetworkAttachmentDefinitionList, error) {
	out := &nadv1.NetworkAttachmentDefinitionList{}
	var kind metav1.TypeMeta
	dec := json.NewDecoder(r)
	err := expect(dec, json.Delim('{'))
	for err == nil && dec.More() {
		var key json.Token
		if key, err = dec.Token(); err != nil {
			break
		}
		switch key {
		case "kind":
			err = dec.Decode(&kind.Kind)
		case "apiVersion":
			err = dec.Decode(&kind.APIVersion)
		case "metadata":
			err = dec.Decode(&out.ListMeta)
		case "items":
			err = readItems(dec, out, budget, annotations)
		default:
			err = dec.Decode(&json.RawMessage{})
		}
	}
	if err == nil {
		err = expect(dec, json.Delim('}')) // missing if the answer was cut off
	}
	if err == nil && (kind.APIVersion != nadv1.SchemeGroupVersion.String() || !strings.HasSuffix(kind.Kind, "List") ||
		out.ResourceVersion == "") {
		err = fmt.Errorf("answer of kind %q, apiVersion %q, resourceVersion %q", kind.Kind, kind.APIVersion,
			out.ResourceVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("decode list of network definitions: %w", err)
	}
	return out, nil
}

func readItems(dec *json.Decoder, out *nadv1.NetworkAttachmentDefinitionList, budget int, annotations []string,
) error {
	if first, err := dec.Token(); err != nil || first == nil { // null: the list is empty
		return err
	} else if first != json.Delim('[') {
		return fmt.Errorf("unexpected %v, not [", first)
	}
	for dec.More() {
		o := object{}
		if err := dec.Decode(&o); err != nil {
			return err
		}
		nad := nadv1.NetworkAttachmentDefinition{}
		nad.Namespace, nad.Name, nad.ResourceVersion = o.Metadata.Namespace, o.Metadata.Name, o.Metadata.ResourceVersion
		nad.UID = types.UID(o.Metadata.UID)
		resource, ok := o.Metadata.Annotations[netsel.ResourceName]
		v := value{config: o.Spec.Config, resourceName: resource}
		if v.tooLarge() || v.size() > budget {
			nad.Annotations = map[string]string{liveAnno: ""}
		} else {
			if ok {
				nad.Annotations = map[string]string{netsel.ResourceName: resource}
			}
			nad.Spec.Config = o.Spec.Config
			budget -= v.size()
		}
		for key, value := range kept(o.Metadata.Annotations, annotations) {
			metav1.SetMetaDataAnnotation(&nad.ObjectMeta, key, value)
			budget -= len(key) + len(value)
		}
		out.Items = append(out.Items, nad)
	}
	return expect(dec, json.Delim(']'))
}

func expect(dec *json.Decoder, want json.Token) error {
	got, err := dec.Token()
	if err == nil && got != want {
		err = fmt.Errorf("unexpected %v, not %v", got, want)
	}
	return err
}
