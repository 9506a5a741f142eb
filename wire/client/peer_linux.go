package client

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// checkPeer returns an error if the process at the other end belongs neither to root nor to the caller's user: a plan
// decides which programs are executed as root.
func checkPeer(conn net.Conn) error {
	cred, err := Peer(conn)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: process %d of user %d listens", ErrPeer, cred.Pid, cred.Uid)
	}
	return nil
}

// Peer returns the credentials of the process at the other end of a unix socket, as they were when it connected or
// began to listen (unix(7), SO_PEERCRED).
func Peer(conn net.Conn) (*syscall.Ucred, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("credentials of the peer: %T is not a socket", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("credentials of the peer: %w", err)
	}
	var cred *syscall.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return nil, fmt.Errorf("credentials of the peer: %w", errors.Join(err, credErr))
	}
	return cred, nil
}
