package publish

import (
	"fmt"
	"hash/fnv"
)

// File is the name of the file in which the report waits for the daemon. It is a function of what makes the report:
// pod, container and Time, so that a name stands for one report for ever. A later report, also one of the same
// container, has a file of its own: nobody replaces it or removes it who means this one, and no lock is needed between
// the plugins that write files and the daemon that removes them. The pod is in the file; a name with the pod's would be
// too long.
func (r *Report) File() string {
	h := fnv.New64a()
	for _, part := range []string{r.Pod.Namespace, r.Pod.Name, r.Pod.UID, r.ContainerID} {
		_, _ = h.Write(append([]byte(part), 0)) // never fails
	}
	return FileName(r.Time, h.Sum64())
}

// FileName is a name of the form of File. Names of other forms may be written more than once: before File, a pod had
// one file.
func FileName(at int64, id uint64) string { return fmt.Sprintf("%016x-%016x.json", uint64(at), id) }

// IsFileName tells whether a name has the form of FileName.
func IsFileName(name string) bool {
	var at, id uint64
	_, err := fmt.Sscanf(name, "%016x-%016x.json", &at, &id)
	return err == nil && name == FileName(int64(at), id)
}
