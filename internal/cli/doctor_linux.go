package cli

import (
	"context"
	"errors"
	"fmt"
	"net"

	"multus/wire/client"
)

// daemonVersion returns the version of the program that serves a socket. The kernel reports its process.
func daemonVersion(ctx context.Context, socket string) (_ string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	peer, err := client.Peer(conn)
	if err != nil {
		return "", fmt.Errorf("find the process that serves %s: %w", socket, err)
	}
	return versionOf(fmt.Sprintf("/proc/%d/exe", peer.Pid))
}
