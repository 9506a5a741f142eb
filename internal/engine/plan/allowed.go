package plan

import (
	"fmt"
	"slices"
	"strings"

	"multus/internal/fault"
)

// allowed returns an error for a network definition of a pod that the configuration does not allow (keys allowedTypes
// and allowInUseNamespaces). A user with write access to definitions in a namespace can make the node run plugins as
// root. What cannot be decoded is left for the plugin to refuse.
func (p *planning) allowed(ref Ref, a *Attachment) error {
	if len(p.conf.AllowedTypes) == 0 && p.conf.AllowInUseNamespaces == nil {
		return nil
	}
	for _, t := range a.Config.AllTypes() {
		if len(p.conf.AllowedTypes) > 0 && !slices.Contains(p.conf.AllowedTypes, t) {
			return fault.PluginNotAllowed.New(a.Name, p.pod.Ref, fault.Clip(t, fault.MaxValue),
				strings.Join(p.conf.AllowedTypes, ", "))
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
			return fault.AllowInUseNotAllowed.New(a.Name, p.pod.Ref, ref.Namespace)
		}
	}
	return nil
}
