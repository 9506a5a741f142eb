// Package fsx holds the file operations that the rest of the program must not get wrong: reading a regular file and
// nothing else, replacing a file so that a reader, a crash or a power cut sees either the old or the new content, and a
// lock that outlives the process that took it for as long as one of its children is still at work.
//
// It knows nothing about what is in the files and nothing about CNI, and it is no general file library.
//
// Any package of the project may import it; it imports the standard library and golang.org/x/sys/unix only, because
// it is linked into the small plugin.
package fsx
