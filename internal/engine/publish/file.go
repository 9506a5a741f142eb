package publish

import (
	"fmt"
	"hash/fnv"
)

// File returns the name of the file in which the report is stored for the daemon. The name depends only on what
// identifies the report: pod, container and Time. A name therefore always stands for the same report, and a later
// report has another name, even for the same container. So the plugins that write files and the daemon that removes
// them need no lock: no process can replace or remove the file of another report. The pod is in the file, because a
// name that contains the pod's name would be too long.
func (r *Report) File() string {
	h := fnv.New64a()
	for _, part := range []string{r.Pod.Namespace, r.Pod.Name, r.Pod.UID, r.ContainerID} {
		_, _ = h.Write(append([]byte(part), 0)) // never fails
	}
	return FileName(r.Time, h.Sum64())
}

// FileName returns a name of the form of File. Files with other names may be written more than once: earlier versions
// had one file per pod.
func FileName(at int64, id uint64) string { return fmt.Sprintf("%016x-%016x.json", uint64(at), id) }

// IsFileName reports whether a name has the form of FileName.
func IsFileName(name string) bool {
	var at, id uint64
	_, err := fmt.Sscanf(name, "%016x-%016x.json", &at, &id)
	return err == nil && name == FileName(int64(at), id)
}
