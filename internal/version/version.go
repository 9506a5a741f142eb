// Package version identifies the build of a binary from its build information. Every package may import it.
package version

import (
	"fmt"
	"runtime/debug"
)

// Release returns the version of the module in the build information, for a user agent.
func Release() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// Revision returns the commit in the build information.
func Revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// String describes the binary from its build information, in today's format (behaviour D3).
func String() string {
	name, commit, date, tree := "unknown", "unknown commit", "unknown date", "clean"
	if info, ok := debug.ReadBuildInfo(); ok {
		name = info.Main.Version
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = s.Value
			case "vcs.time":
				date = s.Value
			case "vcs.modified":
				if s.Value == "true" {
					tree = "dirty"
				}
			}
		}
	}
	return fmt.Sprintf("version:%s(%s), commit:%s, date:%s", name, tree, commit, date)
}
