// Package errtable holds no code: its tests make docs/errors.md from the source, and produce every error in it.
package errtable
