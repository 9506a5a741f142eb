package kube

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"multus/internal/engine/publish"
)

// TestUpdateLimitsMemory checks that the GET before a PUT, which is needed if the role lacks the verb patch, is
// limited. A pod that is larger than the API server can store is refused for good, and is not written.
func TestUpdateLimitsMemory(t *testing.T) {
	t.Parallel()
	forbidden := answer(http.StatusForbidden, "",
		`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
	const limit = 1 << 20
	var put atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPatch:
			forbidden(w, r)
		case http.MethodPut:
			put.Add(1)
		default:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"metadata":{"uid":%q,"resourceVersion":"1"},"x":%q}`, aPod.UID, strings.Repeat("x", limit))
		}
	})
	c.maxObject = limit
	err := c.SetStatus(t.Context(), aPod, statusKey, "x", nil)
	if !errors.Is(err, publish.ErrRefused) || put.Load() > 0 {
		t.Errorf("a pod of more than %d bytes: %v, written %d times", limit, err, put.Load())
	}
}
