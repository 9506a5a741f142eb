package repair

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/cniconf"
	"multus/internal/engine/request"
	"multus/internal/fsx"
)

const (
	// maxResult limits the size of a cached result that is read, and maxResults their number.
	maxResult  = 4 << 20
	maxResults = 4096
	// loopback is the interface for which containerd calls the loopback plugin.
	loopback = "lo"
)

// results are the results that the runtime's libcni has cached, one file for each attachment. Other programs write
// them: what is not a result is ignored.
type results struct {
	dir string
	// known has the results that were read, by file name.
	known map[string]result
}

// result is one cached result.
type result struct {
	// made is the time of the file.
	made      time.Time
	container string
	network   string
	// uid is that of the pod, or "" if the file is no result of a pod's sandbox.
	uid string
	// multus reports whether the runtime called Multus.
	multus bool
}

// latest returns the result of the latest sandbox of each pod, by UID. Of a sandbox with several networks it is the one
// of Multus, if there is one.
func (r *results) latest() (map[string]result, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list the runtime's results: %w", err)
	}
	now, out := map[string]result{}, map[string]result{}
	for _, e := range entries[:min(len(entries), maxResults)] {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // removed in the meantime, or no result
		}
		got, ok := r.known[e.Name()]
		if !ok || !got.made.Equal(info.ModTime()) {
			if got, err = r.read(e.Name(), info.ModTime()); err != nil {
				continue // removed in the meantime, or too large for a result
			}
		}
		now[e.Name()] = got
		if other, ok := out[got.uid]; got.uid != "" && (!ok || got.replaces(&other)) {
			out[got.uid] = got
		}
	}
	r.known = now
	return out, nil
}

// replaces reports whether a result says more about a pod than another one.
func (r *result) replaces(other *result) bool {
	if r.container == other.container {
		return r.multus
	}
	return r.made.After(other.made)
}

// read reads a file that was made at a time. It returns a result without UID for one that is not a result of a pod's
// sandbox, such as that of its loopback interface.
func (r *results) read(name string, made time.Time) (result, error) {
	none := result{made: made}
	b, err := fsx.ReadRegular(r.dir, name, maxResult)
	if err != nil {
		return none, err
	}
	var file struct {
		Kind        string         `json:"kind"`
		ContainerID string         `json:"containerId"`
		Config      []byte         `json:"config"`
		IfName      string         `json:"ifName"`
		NetworkName string         `json:"networkName"`
		CNIArgs     []request.Pair `json:"cniArgs"`
	}
	if err := json.Unmarshal(b, &file); err != nil || file.Kind != libcni.CNICacheV1 || file.IfName == loopback {
		return none, nil //nolint:nilerr // another program's file
	}
	return result{
		made: made, container: file.ContainerID, network: file.NetworkName,
		uid: request.Args(file.CNIArgs).Get(request.PodUID), multus: cniconf.CallsMultus(file.Config),
	}, nil
}
