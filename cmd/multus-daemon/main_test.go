package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multus/internal/testutil/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// TestErrors checks that a fatal error names the file and the next step, and that it mentions root only if that can
// help.
func TestErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"multus-shim", "multus", "passthru"} {
		file("bin/"+name, "x")
	}
	none := filepath.Join(dir, "none")
	broken, limit := file("broken.json", "{"), file("limit.json", `{"connectionLimit": 0}`)
	plugins, dest := filepath.Join(dir, "bin"), filepath.Join(dir, "dest")
	const give = "; give --config FILE (examples/node/daemon-config.json is one to start from)\n"
	for _, tc := range []struct {
		name string
		args []string
		uid  int
		want string
	}{
		{
			"no configuration",
			[]string{"run", "--config", none},
			1000,
			"read the daemon's configuration: open " + none + ": no such file or directory" + give,
		},
		{
			"no configuration, called as in today's Multus",
			[]string{"-config", none},
			0,
			"read the daemon's configuration: open " + none + ": no such file or directory" + give,
		},
		{
			"a broken configuration",
			[]string{"run", "--config", broken},
			0,
			broken + ": failed to unmarshall the daemon configuration: unexpected end of JSON input; correct the daemon's " +
				"configuration file\n",
		},
		{
			"a wrong value",
			[]string{"run", "--config", limit},
			0,
			limit + ": connection limit must be greater than 0, got 0; remove connectionLimit, or make it greater than 0\n",
		},
		{
			"no reference plugins",
			[]string{"install", "--source", plugins, "--dest", dest, "--reference-plugins"},
			0,
			"list reference plugins: open " + plugins +
				"/cni: no such file or directory; build them (make tools) or use the image\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var errs strings.Builder
			if code := run(t.Context(), append([]string{"multus-daemon"}, tc.args...), &errs, tc.uid); code != 1 ||
				errs.String() != "error: "+tc.want {
				t.Errorf("%d %q, want %q", code, errs.String(), tc.want)
			}
		})
	}
}

// TestDenied checks that the error for a missing permission mentions root for other users and not for root.
func TestDenied(t *testing.T) {
	t.Parallel()
	const denied = "/sys/bus/platform/drivers_probe" // in sysfs, not readable by any user, root included
	if _, err := os.ReadFile(denied); !errors.Is(err, fs.ErrPermission) {
		t.Skipf("nothing that is denied to root: %v", err)
	}
	for uid, want := range map[int]string{0: "permission denied\n", 1000: "permission denied; run it as root\n"} {
		var errs strings.Builder
		if code := run(t.Context(), []string{"multus-daemon", "run", "--config", denied}, &errs, uid); code != 1 ||
			!strings.HasSuffix(errs.String(), want) {
			t.Errorf("as %d: %d %q", uid, code, errs.String())
		}
	}
}

// TestTools checks that under the names of a shell and its tools the binary accepts the command lines of known
// manifests, and no flags of its own.
func TestTools(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{
			[]string{"/bin/sh", "-c", "rm -f /host/etc/cni/net.d/00-multus.conf"},
			0,
			"/host/etc/cni/net.d/00-multus.conf is kept",
		},
		{[]string{"sh", "-c", "uname -a"}, 1, "the image of multus has no shell and no tools"},
		{[]string{"sh"}, 1, `"sh" is not understood`},
		{[]string{"cp", "--help"}, 1, `"cp --help" is not understood`},
	} {
		var errs strings.Builder
		if code := run(t.Context(), tc.args, &errs, 0); code != tc.code || !strings.Contains(errs.String(), tc.want) {
			t.Errorf("%q: %d %q, want %q", tc.args, code, errs.String(), tc.want)
		}
	}
	if got := program([]string{"/entrypoint.sh"}).Use; got != "entrypoint.sh" {
		t.Errorf("entrypoint.sh is %q", got)
	}
}
