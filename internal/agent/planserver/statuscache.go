package planserver

import (
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/internal/fault"
	wirev1 "multus/wire/v1"
)

// statusCache caches the STATUS results of the cluster network for as long as they are valid. The zero value is ready
// to use.
type statusCache struct {
	// mu guards last.
	mu   sync.Mutex
	last map[string]cachedStatus
}

type cachedStatus struct {
	status wirev1.StatusResult
	at     time.Time
}

// maxStatuses limits the number of configurations whose STATUS results are cached. A node has one or two.
const maxStatuses = 64

// put stores the STATUS result of a request and removes those that have expired. If the cache is full, the result is
// dropped.
func (s *statusCache) put(w http.ResponseWriter, r *http.Request) {
	var st wirev1.StatusResult
	if err := decode(w, r, &st); err != nil || st.Key == "" {
		answer(w, http.StatusBadRequest, &types.Error{Code: fault.Decoding, Msg: "a status needs a key"})
		return
	}
	st.Known = true
	s.store(st, time.Now())
	answer(w, http.StatusOK, struct{}{})
}

func (s *statusCache) store(st wirev1.StatusResult, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]cachedStatus{}
	}
	maps.DeleteFunc(s.last, func(_ string, r cachedStatus) bool { return now.Sub(r.at) > wirev1.StatusTTL })
	if _, known := s.last[st.Key]; known || len(s.last) < maxStatuses {
		s.last[st.Key] = cachedStatus{status: st, at: now}
	}
}

// load returns the cached STATUS result if it is valid, and otherwise a result that is not Known.
func (s *statusCache) load(key string) wirev1.StatusResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.last[key]
	if !ok || time.Since(last.at) > wirev1.StatusTTL {
		return wirev1.StatusResult{Key: key}
	}
	return last.status
}
