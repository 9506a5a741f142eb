package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"multus/internal/engine/publish"
)

const (
	// updateTries is how often a GET and PUT is tried while other clients change the pod.
	updateTries = 5
	// updateFor is how long GET and PUT are used before PATCH is tried again, because the role may have been corrected.
	updateFor = 10 * time.Minute
)

// updates records whether statuses are written by GET and PUT, because the role lacks the verb patch.
type updates struct {
	log *slog.Logger // nil for none

	// mu guards the fields below.
	mu     sync.Mutex
	until  time.Time
	logged bool
}

func (u *updates) needed(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.until)
}

func (u *updates) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.until = time.Time{}
}

// begin records that PATCH was forbidden and PUT succeeded. It logs the first time.
func (u *updates) begin(now time.Time, why error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.until = now.Add(updateFor)
	if !u.logged && u.log != nil {
		u.log.Warn(`statuses are written by GET and PUT, two requests each: add the verb "patch" on pods/status to the role`,
			"err", why)
	}
	u.logged = true
}

// Log sets the logger for workarounds that the role requires. It must be called before the first request.
func (c *Client) Log(log *slog.Logger) { c.update.log = log }

// updateStatus makes a write by GET and PUT. It sends all other members of the pod back unchanged. The
// resourceVersion protects the changes of other clients. If the UID is known, it must be that of the pod that was read,
// and the API server compares it again.
func (c *Client) updateStatus(ctx context.Context, w *statusWrite) error {
	pod := w.pod
	get := target{verb: "get", resource: "pods", namespace: pod.Namespace, name: pod.Name}
	put := target{verb: "update", resource: "pods", subresource: "status", namespace: pod.Namespace, name: pod.Name}
	for try := 1; ; try++ {
		var body []byte
		err := c.read(ctx, c.core, get, runtime.ContentTypeJSON, c.podRequests, func(b []byte) (err error) {
			body, err = w.apply(b)
			return err
		})
		if errors.Is(err, errTooLarge) {
			return fmt.Errorf("%w: %w", publish.ErrRefused, err)
		}
		if err != nil {
			return publishError(get, err)
		}
		err = c.core.Put().Namespace(put.namespace).Resource(put.resource).Name(put.name).SubResource(put.subresource).
			SetHeader("Accept", acceptMetadata).Body(body).MaxRetries(0).Do(ctx).Error()
		if code(err) != http.StatusConflict || try == updateTries {
			return publishError(put, err)
		}
	}
}

// apply returns an encoded pod with the annotations and, if it lists the readiness gate, with the condition. The error
// wraps publish.ErrGone if the pod has another UID.
func (w *statusWrite) apply(body []byte) ([]byte, error) {
	var o, metadata map[string]json.RawMessage
	var known struct {
		Metadata struct {
			UID             string            `json:"uid"`
			ResourceVersion string            `json:"resourceVersion"`
			Annotations     map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	err := errors.Join(json.Unmarshal(body, &o), json.Unmarshal(body, &known))
	if err == nil {
		err = json.Unmarshal(o["metadata"], &metadata)
	}
	if err != nil {
		return nil, fmt.Errorf("decode pod: %w", err)
	}
	m := known.Metadata
	switch {
	case w.pod.UID != "" && m.UID != w.pod.UID:
		return nil, fmt.Errorf("%w: the pod of this name has the UID %s, not %s", publish.ErrGone, m.UID, w.pod.UID)
	case m.UID == "" || m.ResourceVersion == "":
		return nil, errors.New("decode pod: no uid or no resourceVersion")
	}
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	maps.Copy(m.Annotations, w.annotations)
	gate, err := gateOf(body)
	if err == nil && gate != nil {
		err = setCondition(o, gate, w.unready)
	}
	if err != nil {
		return nil, fmt.Errorf("decode pod: %w", err)
	}
	if metadata["annotations"], err = json.Marshal(m.Annotations); err == nil {
		o["metadata"], err = json.Marshal(metadata)
	}
	if err != nil {
		return nil, fmt.Errorf("encode pod: %w", err)
	}
	return json.Marshal(o)
}
