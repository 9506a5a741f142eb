package daemon

import (
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"multus/api"
	"multus/internal/fault"
)

// statuses caches the STATUS results of the cluster network for as long as they are valid. The zero value is ready to
// use.
type statuses struct {
	// mu guards last.
	mu   sync.Mutex
	last map[string]remembered
}

type remembered struct {
	status api.Status
	at     time.Time
}

// maxStatuses limits the number of configurations whose STATUS results are cached. A node has one or two.
const maxStatuses = 64

// take stores a STATUS result and removes those that have expired.
func (s *statuses) take(w http.ResponseWriter, r *http.Request) {
	var st api.Status
	if err := decode(w, r, &st); err != nil || st.Key == "" {
		answer(w, http.StatusBadRequest, &types.Error{Code: fault.Decoding, Msg: "a status needs a key"})
		return
	}
	st.Known = true
	s.remember(st, time.Now())
	answer(w, http.StatusOK, struct{}{})
}

func (s *statuses) remember(st api.Status, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]remembered{}
	}
	maps.DeleteFunc(s.last, func(_ string, r remembered) bool { return now.Sub(r.at) > api.StatusTTL })
	if _, known := s.last[st.Key]; known || len(s.last) < maxStatuses {
		s.last[st.Key] = remembered{status: st, at: now}
	}
}

// answer writes the cached STATUS result, if it is valid. It holds no lock while it writes, because the client may read
// slowly.
func (s *statuses) answer(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, s.recall(r.URL.Query().Get("key")))
}

func (s *statuses) recall(key string) api.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.last[key]
	if !ok || time.Since(last.at) > api.StatusTTL {
		return api.Status{Key: key}
	}
	return last.status
}
