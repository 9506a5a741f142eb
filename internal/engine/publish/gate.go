package publish

import (
	"fmt"
	"strings"

	"multus/internal/fault"
)

// Gate is the readiness gate of Multus, and the type of the pod condition that opens it (behaviour R30).
const Gate = "multus-cni.io/NetworksAttached"

// Reasons of the condition. NetworksAttached is that of True.
const (
	NetworksAttached = "NetworksAttached"
	NetworkMissing   = "NetworkMissing"
)

// Limits of a condition: how many networks it names, and the bytes of its reason and its message.
const (
	maxLacking = 8
	maxReason  = 64
	maxMessage = 1024
)

// Unready is why the condition of a pod's readiness gate is False.
type Unready struct {
	// Reason is one word. With NetworkMissing, the condition becomes True when a comparison of the running pod finds that
	// nothing is missing any more; with another reason, it stays until a report with a status has no Unready.
	Reason string
	// Message names the networks. It must be the same while nothing changes, because each change is written.
	Message string
}

// Clip limits the size of a value that another process sent. It accepts nil.
func (u *Unready) Clip() {
	if u != nil {
		u.Reason, u.Message = fault.Clip(u.Reason, maxReason), fault.Clip(u.Message, maxMessage)
	}
}

// Lacking returns the condition of a pod that lacks networks that it requests, or nil if it lacks none. Each network
// may name its interface.
func Lacking(networks []string) *Unready {
	return unready(NetworkMissing, "not attached: ", networks)
}

// Lost returns why a pod whose interfaces are lost is not ready, or nil for none.
func Lost(interfaces []string) *Unready { return unready(InterfaceLost, "lost: ", interfaces) }

func unready(reason, message string, networks []string) *Unready {
	if len(networks) == 0 {
		return nil
	}
	message += strings.Join(networks[:min(len(networks), maxLacking)], ", ")
	if more := len(networks) - maxLacking; more > 0 {
		message += fmt.Sprintf(" and %d more", more)
	}
	u := &Unready{Reason: reason, Message: message}
	u.Clip()
	return u
}
