package deploy

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// installer is the init container that copies the plugins.
const installer = "install"

// sensitive are files and directories of a node that no mount may contain.
var sensitive = []string{
	"/boot/x", "/dev/x", "/etc/shadow", "/etc/kubernetes/pki", "/etc/ssh", "/home/x", "/home/kubernetes/kube-env",
	"/opt/x", "/proc/1", "/root/x",
	"/run/multus-lock", "/run/netns", "/var/run/netns", "/run/containerd/containerd.sock",
	"/run/k3s/containerd/containerd.sock", "/run/k0s/containerd.sock",
	"/run/crio/crio.sock", "/var/run/x", "/sys/x", "/usr/bin", "/var/log/pods", "/var/lib/etcd", "/var/lib/containerd",
	"/var/lib/cni/networks", "/var/lib/kubelet/pods", "/var/lib/kubelet/pki", "/var/lib/k0s/kubelet/pods",
	"/var/lib/k0s/pki",
	"/var/lib/rancher/k3s/server", "/var/snap/microk8s/current/certs", "/var/snap/microk8s/common/var/lib/kubelet/pods",
}

// violations returns everything that the pods of a DaemonSet must not have. This project promises an empty list.
func violations(ds *appsv1.DaemonSet) []string {
	var v []string
	bad := func(is bool, format string, args ...any) {
		if is {
			v = append(v, fmt.Sprintf(format, args...))
		}
	}
	pod := ds.Spec.Template.Spec
	bad(pod.HostPID, "hostPID")
	bad(pod.HostIPC, "hostIPC")
	bad(!pod.HostNetwork, "no hostNetwork: the pod would need the network that it provides")
	bad(pod.ShareProcessNamespace != nil && *pod.ShareProcessNamespace, "shareProcessNamespace")
	bad(pod.PriorityClassName != "system-node-critical", "priorityClassName %q", pod.PriorityClassName)
	bad(pod.ServiceAccountName != "multus", "serviceAccountName %q", pod.ServiceAccountName)
	bad(pod.TerminationGracePeriodSeconds == nil, "no terminationGracePeriodSeconds")
	bad(ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType, "updateStrategy %q",
		ds.Spec.UpdateStrategy.Type)
	for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
		bad(!slices.ContainsFunc(pod.Tolerations, func(t corev1.Toleration) bool {
			return t.Key == "" && t.Operator == corev1.TolerationOpExists && t.Effect == effect
		}), "does not tolerate %s", effect)
	}
	bad(slices.ContainsFunc(pod.InitContainers, func(c corev1.Container) bool { return c.Name != installer }),
		"unexpected init containers")
	bad(len(pod.InitContainers) > 1, "%d init containers", len(pod.InitContainers))
	bad(len(pod.EphemeralContainers) != 0, "ephemeral containers")
	bad(len(pod.Containers) != 1, "%d containers", len(pod.Containers))
	for i := range pod.Containers {
		v = append(v, ofContainer(&pod.Containers[i], pod.SecurityContext)...)
	}
	for i := range pod.InitContainers {
		c := &pod.InitContainers[i]
		v = append(v, ofContainer(c, pod.SecurityContext)...)
		bad(len(c.VolumeMounts) != 1 ||
			c.VolumeMounts[0].Name != "cni-bin", "the init container %s mounts more than the plugin directory", c.Name)
		bad(len(c.Env) != 0, "the init container %s has an environment", c.Name)
	}
	return append(v, ofVolumes(&pod)...)
}

func ofContainer(c *corev1.Container, pod *corev1.PodSecurityContext) []string {
	var v []string
	bad := func(is bool, format string, args ...any) {
		if is {
			v = append(v, fmt.Sprintf(format, args...))
		}
	}
	sc := c.SecurityContext
	if sc == nil {
		return []string{"no securityContext"}
	}
	bad(sc.Privileged != nil && *sc.Privileged, "privileged")
	bad(sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation, "allowPrivilegeEscalation")
	bad(sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem, "root filesystem can be written")
	bad(sc.RunAsUser == nil || *sc.RunAsUser != 0, "runAsUser is not 0")
	bad(sc.Capabilities == nil || len(sc.Capabilities.Add) != 0 ||
		!slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}), "capabilities")
	bad(sc.ProcMount != nil, "procMount")
	runtimeDefault := func(p *corev1.SeccompProfile) bool {
		return p != nil && p.Type == corev1.SeccompProfileTypeRuntimeDefault
	}
	bad(!runtimeDefault(sc.SeccompProfile), "seccomp profile of the container")
	bad(pod == nil || !runtimeDefault(pod.SeccompProfile), "seccomp profile of the pod")
	bad(sc.AppArmorProfile != nil && sc.AppArmorProfile.Type == corev1.AppArmorProfileTypeUnconfined, "AppArmor")
	_, cpu := c.Resources.Limits[corev1.ResourceCPU]
	bad(cpu, "a limit of CPU")
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		bad(c.Resources.Requests[r] == resource.Quantity{}, "no request of %s", r)
	}
	bad(len(c.Ports) != 0, "ports: the scheduler would reserve them")
	bad(len(c.VolumeDevices) != 0, "volumeDevices")
	for _, m := range c.VolumeMounts {
		bad(m.MountPropagation != nil, "mountPropagation of %s", m.MountPath)
		bad(m.SubPath != "" || m.SubPathExpr != "", "subPath of %s", m.MountPath)
	}
	return v
}

func ofVolumes(pod *corev1.PodSpec) []string {
	var v []string
	for _, vol := range pod.Volumes {
		if vol.HostPath == nil {
			if vol.ConfigMap == nil {
				v = append(v, "volume "+vol.Name+" is neither a hostPath nor a ConfigMap")
			}
			continue
		}
		p := vol.HostPath.Path
		if p != path.Clean(p) || !path.IsAbs(p) {
			v = append(v, "hostPath "+p+" is not a clean path")
		}
		if vol.HostPath.Type != nil && *vol.HostPath.Type != corev1.HostPathUnset {
			v = append(v, "hostPath "+p+" has a type, which a kubelet in a container would look for in the wrong place")
		}
		for _, s := range sensitive {
			if s == p || p == "/" || strings.HasPrefix(s, p+"/") {
				v = append(v, "hostPath "+p+" shows "+s)
			}
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			for _, m := range c.VolumeMounts {
				if m.Name == vol.Name && m.MountPath != p {
					v = append(v, "hostPath "+p+" is at "+m.MountPath)
				}
			}
		}
	}
	return v
}

// TestSecurity checks that no manifest has the privileges that today's manifests need (multus-cni#1248,
// rancher/rke2#746; docs/security.md).
func TestSecurity(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			m := render(t, dir)
			checkUnprivileged(t, m)
		})
	}
}

// checkUnprivileged checks that a manifest has nothing that it must not have.
func checkUnprivileged(t *testing.T, m manifest) {
	t.Helper()
	for _, v := range violations(get[appsv1.DaemonSet](t, m, "DaemonSet")) {
		t.Error(v)
	}
	// Check the text, too, which includes objects that are added later.
	for _, word := range []string{
		"mountPropagation", "hostPID: true", "hostIPC: true", "privileged: true",
		"allowPrivilegedContainer: true", "allowHostDirVolumePlugin: false",
	} {
		if bytes.Contains(m.text, []byte(word)) {
			t.Errorf("it contains %q", word)
		}
	}
}

// TestWritableMounts checks that every mount is read-only unless it must be written. The daemon, which parses pods and
// definitions, cannot write the plugins, which the runtime executes.
func TestWritableMounts(t *testing.T) {
	t.Parallel()
	for _, dir := range all(t) {
		want := []string{"cni-conf", "run", "slot"}
		if dir == thin {
			want = []string{"cni-conf", "cni-bin", "networks"} // thin_entrypoint creates that directory
		}
		var got []string
		for _, m := range get[appsv1.DaemonSet](t, render(t, dir),
			"DaemonSet").Spec.Template.Spec.Containers[0].VolumeMounts {
			if !m.ReadOnly {
				got = append(got, m.Name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: writable %q, want %q", dir, got, want)
		}
	}
}

// TestViolationsAreSeen changes the base in each forbidden way and checks that violations reports it.
func TestViolationsAreSeen(t *testing.T) {
	t.Parallel()
	yes, no, user := true, false, int64(1000)
	both := corev1.MountPropagationBidirectional
	create := corev1.HostPathDirectoryOrCreate
	unmasked := corev1.UnmaskedProcMount
	for name, breakIt := range map[string]func(*appsv1.DaemonSet, *corev1.PodSpec, *corev1.Container){
		"privileged": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec,
			c *corev1.Container,
		) {
			c.SecurityContext.Privileged = &yes
		},
		"hostPID":     func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.HostPID = true },
		"hostIPC":     func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.HostIPC = true },
		"hostNetwork": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.HostNetwork = false },
		"priority":    func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.PriorityClassName = "" },
		"account":     func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.ServiceAccountName = "" },
		"grace": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.TerminationGracePeriodSeconds = nil
		},
		"strategy": func(d *appsv1.DaemonSet, _ *corev1.PodSpec, _ *corev1.Container) {
			d.Spec.UpdateStrategy.Type = "OnDelete"
		},
		"tolerations": func(_ *appsv1.DaemonSet, p *corev1.PodSpec,
			_ *corev1.Container,
		) {
			p.Tolerations = p.Tolerations[:1]
		},
		"init container": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, c *corev1.Container) {
			p.InitContainers = []corev1.Container{*c}
		},
		"second init container": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.InitContainers = append(p.InitContainers, p.InitContainers[0])
		},
		"init container with more mounts": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, c *corev1.Container) {
			p.InitContainers[0].VolumeMounts = c.VolumeMounts[:2]
		},
		"privileged init container": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.InitContainers[0].SecurityContext.Privileged = &yes
		},
		"init container at another path": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.InitContainers[0].VolumeMounts[0].MountPath = "/host/opt/cni/bin"
		},
		"second": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, c *corev1.Container) {
			p.Containers = append(p.Containers, *c)
		},
		"no context": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) { c.SecurityContext = nil },
		"escalation": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.AllowPrivilegeEscalation = nil
		},
		"writable root": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.ReadOnlyRootFilesystem = &no
		},
		"user": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) { c.SecurityContext.RunAsUser = &user },
		"capability": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
		},
		"capabilities": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.Capabilities.Drop = nil
		},
		"procMount": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.ProcMount = &unmasked
		},
		"seccomp": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext.SeccompProfile.Type = "Unconfined"
		},
		"seccomp of pod": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.SecurityContext = nil },
		"CPU limit": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.Resources.Limits["cpu"] = resource.MustParse("100m")
		},
		"no request": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			delete(c.Resources.Requests, "memory")
		},
		"ports": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 1}}
		},
		"propagation": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.VolumeMounts[1].MountPropagation = &both
		},
		"sub path": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) { c.VolumeMounts[1].SubPath = "x" },
		"other path": func(_ *appsv1.DaemonSet, _ *corev1.PodSpec, c *corev1.Container) {
			c.VolumeMounts[1].MountPath = "/host/opt/cni/bin"
		},
		"root": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.Volumes[1].HostPath.Path = "/" },
		"/run": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.Volumes[1].HostPath.Path = "/run" },
		"/run/netns": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.Volumes[1].HostPath.Path = "/run/netns"
		},
		"/opt": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.Volumes[1].HostPath.Path = "/opt" },
		"/var/lib": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.Volumes[1].HostPath.Path = "/var/lib"
		},
		"kubelet": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.Volumes[1].HostPath.Path = "/var/lib/kubelet"
		},
		"unclean path": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.Volumes[1].HostPath.Path = "/opt/cni/../cni/bin"
		},
		"type of a path": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) {
			p.Volumes[1].HostPath.Type = &create
		},
		"kind of volume": func(_ *appsv1.DaemonSet, p *corev1.PodSpec, _ *corev1.Container) { p.Volumes[1].HostPath = nil },
		"shared processes": func(_ *appsv1.DaemonSet, p *corev1.PodSpec,
			_ *corev1.Container,
		) {
			p.ShareProcessNamespace = &yes
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ds := get[appsv1.DaemonSet](t, render(t, base), "DaemonSet")
			pod := &ds.Spec.Template.Spec
			breakIt(ds, pod, &pod.Containers[0])
			if v := violations(ds); len(v) == 0 {
				t.Error("not reported")
			}
		})
	}
}
