package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"multus/internal/engine/publish"
	"multus/internal/engine/request"
)

// TestForgedManagers checks that one write removes the entries of a limited number of pods: the creator of a claim can
// name any number of field managers (behaviour H17).
func TestForgedManagers(t *testing.T) {
	t.Parallel()
	var managers []map[string]string
	for i := range 1000 {
		managers = append(managers, map[string]string{
			"manager": fmt.Sprint(claimManager, i), "operation": "Apply", "subresource": "status",
		})
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": "u", "managedFields": managers}})
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int32
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
	s := &publish.ClaimStatus{
		ClaimRef: publish.ClaimRef{Namespace: "n", Name: "c"}, Pod: request.Pod{Namespace: "n", Name: "p", UID: "uid"},
	}
	if err := c.WriteClaim(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if n := requests.Load(); n != 1+maxStale {
		t.Errorf("%d requests", n)
	}
}
