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

// statuses remember what the cluster network answered to STATUS, for as long as the answer is good. The zero
// value is ready to use.
type statuses struct {
	// mu guards last.
	mu   sync.Mutex
	last map[string]remembered
}

type remembered struct {
	status api.Status
	at     time.Time
}

// take remembers an answer, and forgets what is old.
func (s *statuses) take(w http.ResponseWriter, r *http.Request) {
	var st api.Status
	if err := decode(w, r, &st); err != nil || st.Key == "" {
		answer(w, http.StatusBadRequest, &types.Error{Code: fault.Decoding, Msg: "a status needs a key"})
		return
	}
	st.Known = true
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]remembered{}
	}
	maps.DeleteFunc(s.last, func(_ string, r remembered) bool { return now.Sub(r.at) > api.StatusTTL })
	s.last[st.Key] = remembered{status: st, at: now}
	answer(w, http.StatusOK, struct{}{})
}

// answer gives what is remembered and good.
func (s *statuses) answer(w http.ResponseWriter, r *http.Request) {
	key := r.URL.Query().Get("key")
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.last[key]
	if !ok || time.Since(last.at) > api.StatusTTL {
		answer(w, http.StatusOK, api.Status{Key: key})
		return
	}
	answer(w, http.StatusOK, last.status)
}
