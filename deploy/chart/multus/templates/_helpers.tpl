{{/* The namespace of the objects. */}}
{{- define "multus.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* The image, by its digest if one is set. */}}
{{- define "multus.image" -}}
{{- $registry := coalesce .Values.global.imageRegistry .Values.global.systemDefaultRegistry .Values.image.registry -}}
{{- $name := .Values.image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" (trimSuffix "/" $registry) $name }}{{ end -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" $name .Values.image.digest }}
{{- else -}}
{{ printf "%s:%s" $name .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/*
What is particular to each distribution, as in deploy/overlays: directories of the node, keys of the daemon's file,
whether the reference plugins are installed, the SELinux options of the containers, and whether the daemon sees the node's
own network files. A test compares both.
*/}}
{{- define "multus.distributions" -}}
"": {}
bottlerocket:
  seLinux: {user: system_u, role: system_r, type: control_t, level: s0}
fcos:
  seLinux: {type: spc_t}
gke:
  cniBin: /home/kubernetes/bin
  referencePlugins: true
k0s:
  kubelet: /var/lib/k0s/kubelet
  referencePlugins: true
k3s:
  cniConf: /var/lib/rancher/k3s/agent/etc/cni/net.d
  cniBin: /var/lib/rancher/k3s/data/cni
  referencePlugins: true
kind:
  referencePlugins: true
microk8s:
  cniConf: /var/snap/microk8s/current/args/cni-network
  cniBin: /var/snap/microk8s/current/opt/cni/bin
  kubelet: /var/snap/microk8s/common/var/lib/kubelet
  referencePlugins: true
openshift:
  cniConf: /etc/kubernetes/cni/net.d
  cniBin: /var/lib/cni/bin
  seLinux: {type: spc_t}
  config: {multusAutoconfigDir: /run/multus/cni/net.d, namespaceIsolation: true}
readonly-fs:
  cniBin: /var/lib/cni/bin
  withoutNetworksDir: true
rke2: {}
talos:
  referencePlugins: true
{{- end -}}

{{/* The settings of this release: those of the distribution, with the values over them. */}}
{{- define "multus.settings" -}}
{{- $all := include "multus.distributions" . | fromYaml -}}
{{- if not (hasKey $all .Values.distribution) -}}
{{- fail (printf "distribution %q is unknown; it is one of: %s" .Values.distribution (keys $all | sortAlpha | join " ")) -}}
{{- end -}}
{{- $d := get $all .Values.distribution -}}
{{- $cniConf := coalesce .Values.paths.cniConf $d.cniConf "/etc/cni/net.d" -}}
{{- $cniBin := coalesce .Values.paths.cniBin $d.cniBin "/opt/cni/bin" -}}
{{- $kubelet := coalesce .Values.paths.kubelet $d.kubelet "/var/lib/kubelet" -}}
{{- $reference := .Values.referencePlugins.enabled -}}
{{- if kindIs "invalid" $reference }}{{ $reference = default false $d.referencePlugins }}{{ end -}}
{{- $config := dict "logLevel" "verbose" "logToStderr" true "multusConfigFile" "auto" "cniConfigDir" $cniConf
  "multusAutoconfigDir" $cniConf "binDir" $cniBin "socketDir" "/run/multus" -}}
{{- if ne $kubelet "/var/lib/kubelet" }}{{ $_ := set $config "kubeletRoot" $kubelet }}{{ end -}}
{{- if .Values.namespaceIsolation }}{{ $_ := set $config "namespaceIsolation" true }}{{ end -}}
{{- if .Values.hotPlug.enabled }}{{ $_ := set $config "hotPlug" true }}{{ $_ := set $config "statusResync" "1m" }}{{ end -}}
{{- with .Values.repair.mode }}{{ $_ := set $config "repair" . }}{{ end -}}
{{- with .Values.dra.claimStatusDrivers }}{{ $_ := set $config "claimStatus" true }}{{ $_ := set $config "claimStatusDrivers" . }}{{ end -}}
{{- with .Values.tracing.endpoint }}{{ $_ := set $config "tracing" (dict "endpoint" . "sampleRatio" (float64 $.Values.tracing.sampleRatio)) }}{{ end -}}
{{- if and .Values.metrics.enabled .Values.metrics.address }}{{ $_ := set $config "metricsAddress" .Values.metrics.address }}{{ end -}}
{{- $own := deepCopy (default dict .Values.config) -}}
{{- $places := dict "cniConfigDir" "paths.cniConf" "binDir" "paths.cniBin" "kubeletRoot" "paths.kubelet" "hotPlug" "hotPlug.enabled"
  "repair" "repair.mode" "claimStatus" "dra.claimStatusDrivers" "claimStatusDrivers" "dra.claimStatusDrivers" -}}
{{- range $key, $value := $places -}}
{{- $chart := get (merge (dict) $config (dict "kubeletRoot" $kubelet "hotPlug" false "claimStatus" false)) $key -}}
{{- if and (hasKey $own $key) (ne (toJson (get $own $key)) (toJson $chart)) -}}
{{- fail (printf "config.%s: set %s, which also changes the mounts and permissions of the daemon" $key $value) -}}
{{- end -}}
{{- end -}}
{{- $config = mergeOverwrite $config (default dict $d.config) $own -}}
{{- dict "cniConf" $cniConf "cniBin" $cniBin "kubelet" $kubelet "referencePlugins" $reference "config" $config
  "seLinux" (default dict $d.seLinux) "networksDir" (not $d.withoutNetworksDir) | toYaml -}}
{{- end -}}

{{/*
The annotation of the pods that mount the daemon's file, which they read once: a change of the file changes it, so that an upgrade
restarts them.
*/}}
{{- define "multus.configSum" -}}
{{- if eq .Values.mode "thick" -}}
multus-cni.io/config-sha256: {{ (include "multus.settings" . | fromYaml).config | toJson | sha256sum }}
{{- end -}}
{{- end -}}

{{/* Values that exclude each other. */}}
{{- define "multus.check" -}}
{{- if eq .Values.mode "thin" -}}
{{- if .Values.hotPlug.enabled }}{{ fail "hotPlug needs mode thick: there is no daemon with thin" }}{{ end -}}
{{- if .Values.dra.claimStatusDrivers }}{{ fail "dra.claimStatusDrivers needs mode thick: there is no daemon with thin" }}{{ end -}}
{{- if .Values.tracing.endpoint }}{{ fail "tracing needs mode thick: there is no daemon with thin" }}{{ end -}}
{{- if .Values.metrics.enabled }}{{ fail "metrics need mode thick: there is no daemon with thin" }}{{ end -}}
{{- if .Values.config }}{{ fail "config is the file of the daemon, which mode thin does not have" }}{{ end -}}
{{- if .Values.distribution }}{{ fail "mode thin is not available for a distribution; set paths instead" }}{{ end -}}
{{- end -}}
{{- range $name := list "podLabels" "commonLabels" -}}
{{- range list "app" "name" "tier" -}}
{{- if hasKey (default dict (get $.Values $name)) . }}{{ fail (printf "%s must not have %s, by which Multus finds its pods" $name .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- if .Values.admission.enabled }}{{ fail "admission needs Kubernetes 1.30" }}{{ end -}}
{{- if .Values.definitionPolicy.enabled }}{{ fail "definitionPolicy needs Kubernetes 1.30" }}{{ end -}}
{{- if .Values.nodeIdentity.enabled }}{{ fail "nodeIdentity needs Kubernetes 1.30: set nodeIdentity.enabled=false" }}{{ end -}}
{{- end -}}
{{- if and (float64 .Values.tracing.sampleRatio) (not .Values.tracing.endpoint) }}{{ fail "tracing.sampleRatio needs tracing.endpoint" }}{{ end -}}
{{- if and .Values.metrics.enabled (eq (int .Values.metrics.port) (int .Values.healthPort)) -}}
{{- fail (printf "healthPort and metrics.port are both %d" (int .Values.healthPort)) -}}
{{- end -}}
{{- if not .Values.metrics.enabled -}}
{{- if .Values.metrics.address }}{{ fail "metrics.address needs metrics.enabled" }}{{ end -}}
{{- if .Values.metrics.auth }}{{ fail "metrics.auth needs metrics.enabled" }}{{ end -}}
{{- if .Values.metrics.podMonitor.enabled }}{{ fail "metrics.podMonitor needs metrics.enabled" }}{{ end -}}
{{- if .Values.metrics.prometheusRule.enabled }}{{ fail "metrics.prometheusRule needs metrics.enabled" }}{{ end -}}
{{- end -}}
{{- if and .Values.repair.mode (ne .Values.repair.mode "off") (not .Values.hotPlug.enabled) -}}
{{- fail "repair needs hotPlug.enabled, which lets the daemon watch the pods of its node" -}}
{{- end -}}
{{- if and .Values.executor.enabled (not .Values.hotPlug.enabled) -}}
{{- fail "executor is the runner of hotPlug: set hotPlug.enabled" -}}
{{- end -}}
{{- end -}}

{{/* The rules of the daemon's ClusterRoles, by the name of the role. */}}
{{- define "multus.roles" -}}
{{- $rules := (.Files.Get "files/role-multus.yaml" | fromYaml).rules -}}
{{- if .Values.runtimeAnnotations -}}
{{- $kept := list -}}
{{- range $rules -}}
{{- if not (has "pods" .resources) }}{{ $kept = append $kept . }}{{ end -}}
{{- end -}}
{{- $rules = $kept -}}
{{- end -}}
{{- $roles := dict "multus" $rules -}}
{{- if .Values.hotPlug.enabled }}{{ $_ := set $roles "multus-hotplug" (.Files.Get "files/role-hotplug.yaml" | fromYaml).rules }}{{ end -}}
{{- if eq .Values.repair.mode "evict" }}{{ $_ := set $roles "multus-evict" (.Files.Get "files/role-evict.yaml" | fromYaml).rules }}{{ end -}}
{{- if eq .Values.metrics.auth "kubernetes" }}{{ $_ := set $roles "multus-metrics-auth" (.Files.Get "files/role-metrics-auth.yaml" | fromYaml).rules }}{{ end -}}
{{- with .Values.dra.claimStatusDrivers -}}
{{- $rules := ($.Files.Get "files/role-claim-status.yaml" | fromYaml).rules -}}
{{- range $rules }}{{ if .resourceNames }}{{ $_ := set . "resourceNames" $.Values.dra.claimStatusDrivers }}{{ end }}{{ end -}}
{{- $_ := set $roles "multus-claim-status" $rules -}}
{{- end -}}
{{ toYaml $roles }}
{{- end -}}

{{/* The security context of the containers: root without any capability, with the SELinux options of the distribution. */}}
{{- define "multus.securityContext" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
runAsGroup: 0
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- with .seLinux }}
seLinuxOptions: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The directories of the daemon, at the same path as on the node. */}}
{{- define "multus.volumes" -}}
{{- if .Values.hotPlug.enabled }}
- {name: cni-results, path: /var/lib/cni/results, readOnly: true}
{{- end }}
- {name: cni-conf, path: {{ .s.cniConf }}}
{{- if eq .Values.mode "thin" }}
- {name: cni-bin, path: {{ .s.cniBin }}}
- {name: networks, path: /etc/cni/multus/net.d}
{{- else }}
- {name: cni-bin, path: {{ .s.cniBin }}, readOnly: true}
- {name: run, path: /run/multus}
- {name: state, path: /var/lib/cni/multus, readOnly: true}
{{- if .s.networksDir }}
- {name: networks, path: /etc/cni/multus/net.d, readOnly: true}
{{- end }}
- {name: pod-resources, path: {{ .s.kubelet }}/pod-resources, readOnly: true}
- {name: device-plugins, path: {{ .s.kubelet }}/device-plugins, readOnly: true}
- {name: config, path: /etc/multus, readOnly: true}
- {name: slot, path: /var/lib/cni/multus-slot}
{{- end }}
{{- end -}}

{{/*
The objects of a copied manifest, with the common labels. The argument has text and root, and the namespace and the account of
the daemon replace those of the manifest.
*/}}
{{- define "multus.copy" -}}
{{- $root := .root -}}
{{- $namespace := include "multus.namespace" $root -}}
{{- $account := printf "system:serviceaccount:%s:%s" $namespace $root.Values.serviceAccount.name -}}
{{- range splitList "\n---\n" (.text | replace "system:serviceaccount:kube-system:multus" $account | replace "namespace: kube-system" (printf "namespace: %s" $namespace)) }}
---
{{- $object := fromYaml . }}
{{- with $root.Values.commonLabels }}{{ $_ := set $object.metadata "labels" (merge (default dict $object.metadata.labels) .) }}{{ end }}
{{ toYaml $object }}
{{- end }}
{{- end -}}
