//go:build !linux

package client

import (
	"errors"
	"fmt"
	"net"
)

// checkPeer returns an error: only on Linux does the kernel report the user of the process at the other end.
func checkPeer(net.Conn) error {
	return fmt.Errorf("%w: the daemon runs on Linux nodes: %w", ErrPeer, errors.ErrUnsupported)
}
