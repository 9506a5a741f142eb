package fsx

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Holders returns the processes that hold the lock on key in file: those whose fdinfo has a descriptor of the
// description that owns the lock. A process that is just taking or releasing the lock may or may not be included.
// Without a /proc of the node, or without permission to inspect other users' processes, some are missing.
func Holders(file, key string) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/fd")
	if err != nil {
		return nil, fmt.Errorf("look for the holders of lock %q: %w", key, err)
	}
	var out []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err == nil && holds(pid, file, key) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// holds reports whether a process has a descriptor that owns the lock. It returns false for a process that has ended.
func holds(pid int, file, key string) bool {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if err != nil || target != file {
			return false
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd.Name()))
		return err == nil && owns(info, offset(key))
	})
}

// owns reports whether an fdinfo has a line of the form "lock:\t1: OFDLCK ADVISORY WRITE -1 fe:00:42 START END".
func owns(info []byte, start int64) bool {
	at := strconv.FormatInt(start, 10)
	for lines := bufio.NewScanner(bytes.NewReader(info)); lines.Scan(); {
		words := bytes.Fields(lines.Bytes())
		if len(words) >= 8 && string(words[0]) == "lock:" && string(words[2]) == "OFDLCK" &&
			string(words[len(words)-2]) == at {
			return true
		}
	}
	return false
}
