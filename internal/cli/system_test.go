package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVersionCommand checks that version and --version show the same.
func TestVersionCommand(t *testing.T) {
	t.Parallel()
	code, out, errs := call(t, nil, "version")
	_, flag, _ := call(t, nil, "--version")
	if code != OK || out != flag || !strings.HasPrefix(out, "multusctl: version:") {
		t.Errorf("%d %q %q, --version: %q", code, out, errs, flag)
	}
	code, out, errs = call(t, nil, "version", "-o", "json")
	if code != OK || !strings.Contains(out, `"version": "`) || !strings.Contains(out, `"build": "version:`) {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

// TestOtherSystems checks the commands on a laptop: those that read files or the API work, those of --node run kubectl,
// and the others say that they need a node before they do anything.
func TestOtherSystems(t *testing.T) {
	dir := t.TempDir()
	objectsFile := filepath.Join(dir, "objects.yaml")
	write(t, objectsFile, objects)
	kubectl := "#!/bin/sh\ncase \"$*\" in *'get pods'*) echo pod/kube-multus-ds-abc;; *) echo \"$@\";; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(kubectl), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const needs = " needs a Linux node: run it on the node"
	for _, tc := range []struct {
		args       string
		code       int
		out, stder string
	}{
		{"lint -f " + objectsFile, OK, "", ""},
		{"networks --networks-dir " + dir, OK, "team-a/net", ""},
		{"graph --networks-dir " + dir, OK, "team-a/net", ""},
		{"explain -f " + objectsFile, OK, "team-a/net", ""},
		{"status team-a/none --networks-dir " + dir, Found, "", "team-a/none"},
		{"explain pod team-a/web-0 --running", Found, "", "explain" + needs + ", or with --node NAME"},
		{"explain pod team-a/web-0 --node " + host, OK, "explain pod team-a/web-0", ""},
		{"explain pod team-a/web-0 --running --node n", OK, "explain --running=true pod team-a/web-0", ""},
		{"status", Found, "", "status" + needs + ", or with --node NAME"},
		{"status --node n", OK, "-o table status", ""},
		{"status team-a/web-0 --node n", OK, "-o table status team-a/web-0", ""},
		{"doctor", Found, "", "doctor" + needs + ", or with --node NAME"},
		{"doctor --node " + host, OK, "-o table doctor", ""},
		{"devices", Found, "", "devices" + needs + ", or with --node NAME"},
		{"devices --node n", OK, "-o table devices", ""},
		{"check team-a/web-0", Found, "", "check" + needs + "\n"},
		{"gc", Found, "", "gc" + needs + "\n"},
		{"ledger ls", Found, "", "ledger ls" + needs + "\n"},
		{"ledger show x", Found, "", "ledger show" + needs + "\n"},
		{"ledger verify", Found, "", "ledger verify" + needs + "\n"},
		{"attach a/b --netns /nowhere", Found, "", "attach" + needs + "\n"},
		{"detach a/b --netns /nowhere", Found, "", "detach" + needs + "\n"},
		{"attach pod a/b --network n", Found, "", "no cluster"},
		{"detach pod a/b --network n", Found, "", "no cluster"},
		{"doctor --nodes", Usage, "", "unknown flag"},
	} {
		var out, errs bytes.Buffer
		code := Run(t.Context(), Env{
			Args: append([]string{`kubectl-multus.exe`}, strings.Fields(tc.args)...), Getenv: func(string) string { return "" },
			Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, OS: "windows", UID: -1,
		})
		if code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(errs.String(), tc.stder) {
			t.Errorf("%s: %d\n%s%s", tc.args, code, &out, &errs)
		}
		if tc.code == OK && errs.Len() > 0 {
			t.Errorf("%s: %s", tc.args, &errs)
		}
	}
}
