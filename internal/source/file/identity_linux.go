package file

import (
	"io/fs"
	"syscall"
	"time"
)

// identity returns the inode of a file, and when the inode was changed.
func identity(info fs.FileInfo) (inode uint64, ctime time.Time) {
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		return sys.Ino, time.Unix(sys.Ctim.Unix())
	}
	return 0, time.Time{}
}
