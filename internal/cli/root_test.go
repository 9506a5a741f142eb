package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// unprivilegedUID is a user without rights.
const unprivilegedUID = 65534

// asUnprivileged runs fn with the files of this thread opened by an unprivileged user. A user other than root lacks the
// permissions anyway.
func asUnprivileged(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		fn()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := unix.SetfsuidRetUid(unprivilegedUID); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := unix.SetfsuidRetUid(0); err != nil {
			panic(err)
		}
	}()
	fn()
}

// TestNotRoot checks that an error of a user who is not root says in one line that root is needed, without advice for a
// container runtime, and that root does not get that hint.
func TestNotRoot(t *testing.T) {
	t.Parallel()
	seen, dir := t.TempDir(), t.TempDir()
	write(t, filepath.Join(seen, "objects.yaml"), objects)
	cluster := filepath.Join(seen, "10-cluster.conf")
	write(t, cluster, `{"cniVersion": "1.0.0", "name": "cluster", "type": "bridge"}`)
	for path, mode := range map[string]os.FileMode{
		filepath.Dir(seen): 0o755, filepath.Join(seen, "objects.yaml"): 0o644,
		cluster: 0o644, dir: 0,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	state, locks := "--state-dir="+filepath.Join(dir, "state"), "--lock-file="+filepath.Join(dir, "locks")
	byHand := []string{"team-a/web-0", "--netns=/nowhere", "--networks-dir=" + seen, state, locks}
	for name, args := range map[string][]string{
		"ledger ls": {state}, "ledger show": {"a/b", state}, "status": {state, "--socket-dir=/nowhere"},
		"devices": {state, locks}, "gc": {state, locks},
		"attach": append(byHand, "--cluster-network="+cluster), "detach": byHand,
	} {
		for uid, want := range map[int]string{
			unprivilegedUID: "permission denied; run it as root\n", 0: "permission denied\n",
		} {
			var out, errs bytes.Buffer
			var code int
			asUnprivileged(t, func() {
				code = Run(t.Context(), Env{
					Args:   append(append([]string{"multusctl"}, strings.Fields(name)...), args...),
					Getenv: func(string) string { return "" }, UID: uid, Stdout: &out, Stderr: &errs,
				})
			})
			said := errs.String()
			if code != Found || out.Len() > 0 || !strings.HasSuffix(said, want) || strings.Contains(said, "runtime") ||
				strings.Contains(said, "request") {
				t.Errorf("%s as %d: %d %q %q", name, uid, code, &out, said)
			}
		}
	}
}
