package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// referenceDir is the directory of the reference CNI plugins beside the binaries, where multus-daemon looks for them.
const referenceDir = "cni"

// build compiles every command of the module, and the reference plugins that tools/cni pins, into dir.
func build(ctx context.Context, o options, arch, dir string) error {
	if err := os.RemoveAll(dir); err != nil { // the image must not contain a former command
		return fmt.Errorf("clear %q: %w", dir, err)
	}
	plugins := filepath.Join(dir, referenceDir)
	if err := os.MkdirAll(plugins, 0o755); err != nil {
		return fmt.Errorf("make %q: %w", plugins, err)
	}
	arch, variant := platform(arch)
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off")
	if variant != "" {
		env = append(env, "GOARM="+strings.TrimPrefix(variant, "v"))
	}
	if _, err := goTool(ctx, o.root, env, "build", "-mod=readonly", "-trimpath", "-buildvcs="+o.buildVCS,
		"-gcflags=multus/...=-l", "-ldflags", "-s -w", // as make build
		"-o", dir+"/", "./cmd/..."); err != nil {
		return err
	}
	mod := filepath.Join(o.root, "tools", "cni")
	version, err := goTool(ctx, mod, env, "list", "-m", "-f", "{{.Version}}", "github.com/containernetworking/plugins")
	if err != nil {
		return err
	}
	list, err := goTool(ctx, mod, env, "list", "-f", "{{.ImportPath}}", "tool")
	if err != nil {
		return err
	}
	args := []string{
		"build", "-mod=readonly", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=" +
			strings.TrimSpace(version),
		"-o", plugins + "/",
	}
	_, err = goTool(ctx, mod, env, append(args, strings.Fields(list)...)...)
	return err
}

// platform splits the name of an architecture: arm/v7 has a variant, the others have none.
func platform(arch string) (architecture, variant string) {
	architecture, variant, _ = strings.Cut(arch, "/")
	return architecture, variant
}

func goTool(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	var stderr strings.Builder
	cmd.Dir, cmd.Env, cmd.Stderr = dir, env, &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.String())
	}
	return string(out), nil
}
