package plan

import (
	"fmt"
	"slices"
	"strings"

	"multus/internal/fault"
)

// allowed refuses a definition of a pod's choice that the configuration does not allow: whoever may write definitions
// in a namespace has the node run plugins as root (keys allowedTypes and allowInUseNamespaces). What cannot be decoded
// is the plugin's to refuse.
func (p *planning) allowed(ref Ref, a *Attachment) error {
	if len(p.conf.AllowedTypes) == 0 && p.conf.AllowInUseNamespaces == nil {
		return nil
	}
	for _, t := range slices.Concat(a.Config.Types(), a.Config.IPAMTypes()) {
		if t != "" && len(p.conf.AllowedTypes) > 0 && !slices.Contains(p.conf.AllowedTypes, t) {
			return fault.New(fault.BadConfig, "use a plugin that is allowed, or ask the administrator to add it to allowedTypes",
				"network %s of pod %s: the cluster does not allow plugin %.64q in network definitions; it allows %s",
				a.Name, p.pod.Ref, t, strings.Join(p.conf.AllowedTypes, ", "))
		}
	}
	for i := range a.Config.Types() {
		var conf struct {
			AllowInUse bool `json:"allowInUse"`
		}
		if err := a.Config.Decode(i, &conf); err != nil {
			return fmt.Errorf("network %s: %w", a.Name, err)
		}
		if conf.AllowInUse && p.conf.AllowInUseNamespaces != nil &&
			!slices.Contains(p.conf.AllowInUseNamespaces, ref.Namespace) {
			return fault.New(fault.BadConfig,
				"remove allowInUse, or ask the administrator to add the namespace to allowInUseNamespaces",
				"network %s of pod %s: the cluster does not allow allowInUse in network definitions of namespace %s", a.Name,
				p.pod.Ref, ref.Namespace)
		}
	}
	return nil
}
