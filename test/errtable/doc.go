// Package errtable has only tests. They generate docs/errors.md from the source and produce every error in it.
package errtable
