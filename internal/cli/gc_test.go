package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestGC checks that only sandboxes that have been gone for a while are freed, and that nothing is freed with --dry-run
// or an unknown output format (multus-cni#1273).
func TestGC(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir, bin, netns := filepath.Join(root, "state"), filepath.Join(root, "bin"), filepath.Join(root, "netns")
	log := filepath.Join(root, "log")
	for _, d := range []string{bin, netns} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, plugin := range []string{"bridge", "macvlan"} {
		script := "#!/bin/sh\necho $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >>" + log + "\n"
		if err := os.WriteFile(filepath.Join(bin, plugin), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	recordSandbox(t, dir, "aaaa", "old", filepath.Join(netns, "gone"))
	recordSandbox(t, dir, "bbbb", "coming", filepath.Join(netns, "gone-too"))
	recordSandbox(t, dir, "cccc", "alive", "/proc/self/ns/net")
	for _, id := range []string{"aaaa", "cccc"} {
		hourAgo := time.Now().Add(-time.Hour)
		if err := os.Chtimes(filepath.Join(dir, id), hourAgo, hourAgo); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"gc", "--state-dir", dir, "--plugin-dir", bin, "--lock-file", filepath.Join(root, "locks")}
	before := tree(t, dir)
	code, out, errs := call(t, nil, append(args, "--dry-run")...)
	if code != OK || !strings.HasPrefix(out, "aaaa  team-a/old  ") ||
		!strings.Contains(out, "would be freed: cbr0, team-a/net\n1 to free\n") {
		t.Errorf("%d %q %s", code, out, errs)
	}
	if code, _, errs := call(t, nil, append(args, "-o", "xml")...); code != Usage {
		t.Errorf("%d %s", code, errs)
	}
	if _, err := os.Stat(log); err == nil || len(tree(t, dir)) != len(before) {
		t.Error("the dry run, or a wrong command line, has an effect")
	}
	code, out, errs = call(t, nil, args...)
	if code != OK || !strings.Contains(out, "; freed: cbr0, team-a/net\n1 freed\n") {
		t.Errorf("%d %q %s", code, out, errs)
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "DEL aaaa net1\nDEL aaaa eth0\n" {
		t.Errorf("%q %v", b, err)
	}
	for id, want := range map[string]bool{"aaaa": false, "bbbb": true, "cccc": true} {
		if _, err := os.Stat(filepath.Join(dir, id)); (err == nil) != want {
			t.Errorf("record of %s: %v", id, err)
		}
	}
	if code, out, _ = call(t, nil, args...); code != OK || out != "0 freed\n" {
		t.Errorf("%d %q", code, out)
	}
}

// TestGCFails checks the message and the exit code for a sandbox that cannot be freed.
func TestGCFails(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "state")
	recordSandbox(t, dir, "aaaa", "old", filepath.Join(root, "gone"))
	code, out, errs := call(t, nil, "gc", "--grace", "0s", "--state-dir", dir, "--plugin-dir", root, "--lock-file",
		filepath.Join(root, "locks"))
	if code != Found || !strings.Contains(out, "failed to find plugin") || !strings.Contains(out, "0 freed") ||
		!strings.Contains(errs, "run gc again") {
		t.Errorf("%d %q %s", code, out, errs)
	}
}
