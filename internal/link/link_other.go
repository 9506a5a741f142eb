//go:build !linux

package link

import (
	"errors"
	"fmt"
	"net/netip"
)

// Namespace is an open network namespace. Only Linux has them.
type Namespace struct{ path string }

// errLinux is returned by everything that needs a network namespace.
var errLinux = fmt.Errorf("network namespaces need a Linux node: %w", errors.ErrUnsupported)

// Open returns an error.
func Open(path string) (*Namespace, error) {
	return nil, fmt.Errorf("open network namespace %q: %w", path, errLinux)
}

// Close returns an error, as each method does.
func (n *Namespace) Close() error { return errLinux }

// Path returns the path that was opened.
func (n *Namespace) Path() string { return n.path }

// Do returns an error.
func (n *Namespace) Do(func() error) error { return errLinux }

// Devices returns an error.
func (n *Namespace) Devices() ([]Device, error) { return nil, errLinux }

// PeerOf returns an error.
func (n *Namespace) PeerOf(string) (int, error) { return -1, errLinux }

// Rename returns an error.
func (n *Namespace) Rename(int, string, string) error { return errLinux }

// HasInterface returns an error.
func (n *Namespace) HasInterface(string) (bool, error) { return false, errLinux }

// Interfaces returns an error.
func (n *Namespace) Interfaces() ([]Interface, error) { return nil, errLinux }

// DefaultRoutes returns an error.
func (n *Namespace) DefaultRoutes(string, Family) ([]Route, error) { return nil, errLinux }

// DropDefault returns an error.
func (n *Namespace) DropDefault(string, Family) error { return errLinux }

// SetDefault returns an error.
func (n *Namespace) SetDefault(string, []netip.Addr) error { return errLinux }

// States returns an error.
func (n *Namespace) States() ([]State, error) { return nil, errLinux }
