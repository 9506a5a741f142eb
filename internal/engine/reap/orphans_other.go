//go:build !linux

package reap

import (
	"errors"
	"fmt"
	"time"

	"multus/internal/engine/session"
)

// OrphanGrace is how long DEL waits for the lock after its holders were killed.
const OrphanGrace = 5 * time.Second

// Orphans returns an error: only Linux has sandboxes.
func Orphans(*session.Session) error {
	return fmt.Errorf("find the delegates of a killed plugin: %w", errors.ErrUnsupported)
}
