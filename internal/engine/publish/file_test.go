package publish

import (
	"strings"
	"testing"

	"multus/internal/engine/request"
)

// TestFile checks that each report has a name of its own that every file system accepts, however long the pod's name
// is, and that no name has the form of the names of earlier versions, which contained the pod.
func TestFile(t *testing.T) {
	t.Parallel()
	long := request.Pod{
		Namespace: strings.Repeat("n", 63), Name: strings.Repeat("p", 253), UID: "8e5c4cd3-8e0f-4c1c-9a53-3f0c4a1f5f4e",
	}
	seen := map[string]Report{}
	for _, r := range []Report{
		{},
		{Pod: request.Pod{Namespace: "a", Name: "b", UID: "c"}, ContainerID: "d"},
		{Pod: request.Pod{Namespace: "ab", Name: "", UID: "c"}, ContainerID: "d"},
		{Pod: request.Pod{Namespace: "a", Name: "b", UID: "cd"}},
		{Pod: request.Pod{Namespace: "a", Name: "b", UID: "c"}, ContainerID: "e"},
		{Pod: request.Pod{Namespace: "a", Name: "b", UID: "c"}, ContainerID: "d", Time: 1},
		{Pod: request.Pod{Namespace: "a", Name: "b", UID: "c"}, ContainerID: "d", Time: 1<<63 - 1},
		{Pod: request.Pod{Namespace: "a", Name: "b", UID: "c"}, ContainerID: "d", Time: -1},
		{Pod: long, ContainerID: strings.Repeat("c", 300), Time: 1},
		{Pod: long, ContainerID: strings.Repeat("c", 300), Time: 2},
	} {
		name := r.File()
		if other, ok := seen[name]; ok {
			t.Errorf("%+v and %+v: both %s", other, r, name)
		}
		seen[name] = r
		if len(name) > 255 || !IsFileName(name) {
			t.Errorf("%+v: %s", r, name)
		}
	}
	for _, name := range []string{
		"", ".json", "ns_pod_uid.json", "0_0_0.json", "0000000000000001-0000000000000002",
		"0000000000000001-0000000000000002.json.damaged", "1-2.json", "000000000000000A-0000000000000002.json",
	} {
		if IsFileName(name) {
			t.Errorf("%q is accepted as the name of a report", name)
		}
	}
}
