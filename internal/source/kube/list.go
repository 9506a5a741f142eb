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
	"k8s.io/client-go/rest"

	"multus/internal/engine/plan"
)

const (
	// listPage limits what is held at once of a list that is decoded as a whole.
	listPage = 500
	// listTimeout limits one page of a list, and reviewTimeout one question about what is allowed.
	listTimeout   = 15 * time.Second
	reviewTimeout = 5 * time.Second
	// liveAnno marks a definition of a list of which the name alone is kept. No object of the API server has it.
	liveAnno = "multus/read-live"
	// acceptMetadataList leaves everything but metadata on the server.
	acceptMetadataList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
)

// Networks returns all network definitions of the cluster. It is for people's tools: a daemon has a Cache. Errors are
// those of Network.
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

// Pods returns the metadata of all pods of a node; of all nodes if it is "". Errors are those of Pod.
func (c *Client) Pods(ctx context.Context, node string) ([]plan.Pod, error) {
	var out []plan.Pod
	selector := ""
	if node != "" {
		selector = "spec.nodeName=" + node
	}
	err := list(ctx, c.core, target{verb: "list", resource: "pods"}, acceptMetadataList, selector, func(o *object) {
		ref := plan.Ref{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
		out = append(out, plan.Pod{Ref: ref, UID: o.Metadata.UID, Annotations: o.Metadata.Annotations})
	})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return out, nil
}

// list visits the objects of all pages.
func list(ctx context.Context, client *rest.RESTClient, t target, accept, fieldSelector string,
	visit func(*object),
) error {
	for next := ""; ; {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []object `json:"items"`
		}
		r := client.Get().Resource(t.resource).SetHeader("Accept", accept).Param("limit",
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

// readList decodes a list of network definitions as it comes, one after another, and keeps of each what a Cache
// needs. Of definitions for which the budget has no room the name is kept. An answer that does not say that it is
// such a list is none, whatever its code.
func readList(r io.Reader, budget int) (*nadv1.NetworkAttachmentDefinitionList, error) {
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
			err = readItems(dec, out, budget)
		default:
			err = dec.Decode(&json.RawMessage{})
		}
	}
	if err == nil {
		err = expect(dec, json.Delim('}')) // an answer that was cut off has none
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

func readItems(dec *json.Decoder, out *nadv1.NetworkAttachmentDefinitionList, budget int) error {
	if first, err := dec.Token(); err != nil || first == nil { // null: there are none
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
		resource, ok := o.Metadata.Annotations[resourceAnno]
		v := value{config: o.Spec.Config, resourceName: resource}
		if v.tooLarge() || v.size() > budget {
			nad.Annotations = map[string]string{liveAnno: ""}
		} else {
			if ok {
				nad.Annotations = map[string]string{resourceAnno: resource}
			}
			nad.Spec.Config = o.Spec.Config
			budget -= v.size()
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
