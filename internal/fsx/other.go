//go:build !linux

package fsx

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// This file is for multusctl on machines that are no nodes: it reads files there. Locks need Linux.

// errLinux is the reason why there are no locks.
var errLinux = fmt.Errorf("locks of sandboxes need a Linux node: %w", errors.ErrUnsupported)

// unlink removes the file at path, if it exists. It refuses directories.
func unlink(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return errors.New("it is a directory")
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// random fills b.
func random(b []byte) error {
	_, err := rand.Read(b)
	return err
}

// open opens a file for reading, if it is regular: to open a pipe could block.
func open(path string) (*os.File, error) { return openIf(path, os.Stat) }

// openNoFollow is open, but its error for a symbolic link wraps ErrNotRegular.
func openNoFollow(path string) (*os.File, error) { return openIf(path, os.Lstat) }

func openIf(path string, stat func(string) (os.FileInfo, error)) (*os.File, error) {
	info, err := stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %q: %w", path, ErrNotRegular)
	}
	return os.Open(path)
}

// watch is only a timer.
type watch struct{}

func newWatch() *watch { return &watch{} }

func (w *watch) close() {}

func (w *watch) move(string) bool { return false }

// wait returns nil when it is time to check again. It returns the cause when ctx has ended.
func (w *watch) wait(ctx context.Context) error {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Acquire returns an error: see Lock.
func Acquire(context.Context, string, string) (*Lock, error) { return nil, errLinux }

// TryAcquire returns an error: see Lock.
func TryAcquire(string, string) (*Lock, error) { return nil, errLinux }

// Release closes the file of the lock.
func (l *Lock) Release() error { return l.Close() }

// Held returns an error: see Lock.
func Held(string, string) (bool, error) { return false, errLinux }

// Holders returns an error: see Lock.
func Holders(string, string) ([]int, error) { return nil, errLinux }
