package inject

import (
	"path"
	"slices"
)

// The volume in which programs in the pod find its labels and annotations. Programs that use DPDK read the network
// status there.
const (
	podInfo     = "podnetinfo"
	podInfoPath = "/etc/podnetinfo"
)

// addPodInfo adds the volume with the labels and annotations of the pod, and mounts it in all containers.
func (r *review) addPodInfo() {
	spec := &r.pod.Spec
	i := slices.IndexFunc(spec.Volumes, func(v volume) bool { return v.Name == podInfo })
	if i >= 0 && spec.Volumes[i].DownwardAPI == nil {
		r.warn("volume %s is not a downward API volume: it is not mounted at %s", podInfo, podInfoPath)
		return
	}
	var mounts patch
	for i := range spec.Containers {
		has := spec.Containers[i].VolumeMounts
		if !slices.ContainsFunc(has, func(m mount) bool {
			return m.Name == podInfo || path.Clean(m.MountPath) == podInfoPath
		}) {
			mounts = append(mounts, appendTo(index("/spec/containers", i)+"/volumeMounts", has,
				map[string]any{"name": podInfo, "readOnly": true, "mountPath": podInfoPath})...)
		}
	}
	if len(mounts) == 0 {
		return
	}
	r.patch = append(r.patch, mounts...)
	if i >= 0 {
		return
	}
	var items []any
	field := func(name string) {
		items = append(items, map[string]any{"path": name, "fieldRef": map[string]string{"fieldPath": "metadata." + name}})
	}
	if len(r.pod.Metadata.Labels) > 0 {
		field("labels")
	}
	field("annotations") // the pod has some, else it had no networks
	r.patch = append(r.patch, appendTo("/spec/volumes", spec.Volumes,
		map[string]any{"name": podInfo, "downwardAPI": map[string]any{"items": items}})...)
}
