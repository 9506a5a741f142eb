// Package fsx holds file operations that are easy to get wrong: reading only regular files, replacing a file so that a
// reader, a crash or a power loss sees either the old or the new content, waiting for a file, and a lock that outlives
// the process that took it as long as one of its children is running.
//
// It is independent of CNI and of the content of the files, and it is not a general file library.
//
// Any package of the module may import it. It imports only the standard library, golang.org/x/sys/unix and package
// failpoint, because it is linked into the small plugin.
package fsx
