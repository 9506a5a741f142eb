//go:build !linux

package main

import (
	"os"
	"runtime"
)

// terminal reports whether f is a terminal that shows colours. Not every console of Windows does.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && runtime.GOOS != "windows"
}
