package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sumsName is the file with the checksums, which marks a directory as that of a release.
const sumsName = "SHA256SUMS"

// checkOut clones the commit and gives it the version as its tag, so that Go stamps the version, the commit and its
// time into the binaries. Changes that are not committed are not released. The tag is in the clone only.
func (r *release) checkOut(ctx context.Context) error {
	if err := mayReplace(r.out); err != nil {
		return err
	}
	if err := os.Mkdir(r.stage, 0o755); err != nil {
		return err
	}
	if changed, err := r.git(ctx, r.root, "status", "--porcelain"); err != nil {
		return err
	} else if changed != "" {
		fmt.Fprintln(r.stdout, "  the working tree has changes that are not committed: they are not released")
	}
	var err error
	if r.revision, err = r.git(ctx, r.root, "rev-parse", "HEAD"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"clone", "--quiet", "--no-tags", r.root, r.src},
		{"-C", r.src, "-c", "advice.detachedHead=false", "checkout", "--quiet", r.revision},
		{"-C", r.src, "tag", r.version},
	} {
		if _, err := r.git(ctx, r.work, args...); err != nil {
			return err
		}
	}
	if r.epoch == "" {
		if r.epoch, err = r.git(ctx, r.src, "log", "-1", "--format=%ct"); err != nil {
			return err
		}
	}
	seconds, err := strconv.ParseInt(r.epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("read the time of the commit: %w", err)
	}
	r.time = time.Unix(seconds, 0).UTC()
	return nil
}

// mayReplace returns an error for a directory that has something else than a release.
func mayReplace(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, sumsName)); err != nil {
		return fmt.Errorf("%s is not empty and has no %s: it is not a release; remove it, or name another directory", dir,
			sumsName)
	}
	return nil
}

// place replaces a former release by this one.
func (r *release) place(context.Context) error {
	if err := mayReplace(r.out); err != nil {
		return err
	}
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	return os.Rename(r.stage, r.out)
}

func (r *release) git(ctx context.Context, dir string, args ...string) (string, error) {
	return r.command(ctx, dir, nil, "git", args...)
}

// command runs a program and returns its output without the last line break.
func (r *release) command(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Dir, cmd.Stderr = dir, &stderr
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+r.epoch, "GOFLAGS=", "GOWORK=off")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), args[0], err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}
