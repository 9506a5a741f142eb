package shell

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// image creates the files of the image and a node's directories, as manifests mount them.
func image(t *testing.T) (s *Shell, out, errs *bytes.Buffer) {
	t.Helper()
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	s = &Shell{Root: t.TempDir(), Stdout: out, Stderr: errs}
	for path, content := range map[string]string{
		binDir + "/multus": "new thin", binDir + "/multus-shim": "new shim", binDir + "/passthru": "new passthru",
		binDir + "/multus-daemon":              "daemon",
		"/host/opt/cni/bin/multus-shim":        "old shim",
		"/host/etc/cni/net.d/00-multus.conf":   `{"name":"m","type":"multus-shim"}`,
		"/host/etc/cni/net.d/10-a.conflist":    `{"name":"a","plugins":[{"type":"ptp"}]}`,
		"/host/etc/cni/net.d/multus.d/x":       "x",
		"/host/etc/cni/multus/net.d/other.txt": "x",
		"/host/var/lib/cni/multus/record":      "x",
		"/etc/shadow":                          "secret",
	} {
		file := s.at(path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755),
			os.WriteFile(file, []byte(content), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return s, out, errs
}

// files returns the contents of all files.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, root)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const (
	shim     = "/usr/src/multus-cni/bin/multus-shim"
	nodeShim = "/host/opt/cni/bin/multus-shim"
	conf     = "/host/etc/cni/net.d/00-multus.conf"
)

// TestKnownLines checks that the command lines of existing manifests have their effect.
func TestKnownLines(t *testing.T) {
	t.Parallel()
	const passthru = "/host/opt/cni/bin/passthru"
	kept := []string{conf, nodeShim, "/host/etc/cni/net.d/multus.d/x", "/host/var/lib/cni/multus/record"}
	for name, tc := range map[string]struct {
		args []string
		want map[string]string // files that are new or changed
		out  string
		says bool
	}{
		"today's thick, init container": {
			[]string{"cp", shim, nodeShim},
			map[string]string{nodeShim: "new shim"},
			"",
			false,
		},
		"the same, forced": {
			[]string{"cp", "-f", shim, nodeShim},
			map[string]string{nodeShim: "new shim"},
			"", false,
		},
		"with a path": {
			[]string{"/bin/cp", "-f", shim, nodeShim},
			map[string]string{nodeShim: "new shim"},
			"", false,
		},
		"another plugin directory": {
			[]string{"cp", shim, "/host/home/kubernetes/bin/multus-shim"},
			map[string]string{"/host/home/kubernetes/bin/multus-shim": "new shim"},
			"", false,
		},
		"today's thick and RKE2, two files": {
			[]string{"sh", "-c", "cp " + shim + " " + nodeShim + " && cp /usr/src/multus-cni/bin/passthru " + passthru},
			map[string]string{nodeShim: "new shim", passthru: "new passthru"},
			"", false,
		},
		"CNAO, preStop": {
			[]string{"/bin/sh", "-c", "rm -rf " + conf + " /host/var/lib/cni/*"},
			nil, "",
			true,
		},
		"NVIDIA's operator, preStop": {[]string{"/bin/sh", "-c", "rm -f " + conf}, nil, "", true},
		"Spiderpool, preStop": {
			[]string{"/bin/sh", "-c", "rm -f /host/opt/cni/bin/multus || true\nrm -rf /host/etc/cni/net.d/multus.d || " +
				"true\nrm -f /host/etc/cni/net.d/00-multus.conf || true\n"},
			nil, "", true,
		},
		"Spiderpool, init container": {
			[]string{"/bin/sh", "-c", "cp  /usr/src/multus-cni/bin/multus /host/opt/cni/bin/multus\n# a comment; with " +
				"$signs\ncp /host/etc/cni/net.d/*.conf* /host/etc/cni/multus/net.d/\n"},
			map[string]string{
				"/host/opt/cni/bin/multus":                 "new thin",
				"/host/etc/cni/multus/net.d/10-a.conflist": `{"name":"a","plugins":[{"type":"ptp"}]}`,
			},
			"", false,
		},
		"Spiderpool, without the copies": {
			[]string{"/bin/sh", "-c", "cp  /usr/src/multus-cni/bin/multus /host/opt/cni/bin/multus\n# a comment\n"},
			map[string]string{"/host/opt/cni/bin/multus": "new thin"},
			"", false,
		},
		"upgrade.md, hold the place": {
			[]string{"cp", "-p", conf, "/host/etc/cni/net.d/00-multus.hold.conf"},
			map[string]string{"/host/etc/cni/net.d/00-multus.hold.conf": `{"name":"m","type":"multus-shim"}`},
			"", false,
		},
		"a look at the configuration": {[]string{"cat", conf}, nil, `{"name":"m","type":"multus-shim"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, out, errs := image(t)
			var container []string
			s.Container = func(line string) { container = append(container, line) }
			want := files(t, s.Root)
			maps.Copy(want, tc.want)
			for range 2 { // the container may start again
				out.Reset()
				if err := s.Run(t.Context(), tc.args); err != nil {
					t.Fatal(err)
				}
			}
			got := files(t, s.Root)
			for path := range want {
				if got[path] != want[path] {
					t.Errorf("%s: %q, want %q", path, got[path], want[path])
				}
			}
			if len(got) != len(want) || out.String() != tc.out {
				t.Errorf("files %v, output %q", got, out)
			}
			if says := strings.Contains(errs.String(), "is kept"); says != tc.says || says != (len(container) > 0) {
				t.Errorf("standard error %q, the container's log %q", errs, container)
			}
			for _, path := range kept {
				if _, ok := got[path]; !ok {
					t.Errorf("%s is gone", path)
				}
			}
		})
	}
}

// TestRefused checks that every other command line is refused with a hint before anything is done.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"sh"},
		{"sh", "-c"},
		{"sh", "-c", ""},
		{"sh", "-c", "# nothing"},
		{"sh", "-i"},
		{"sh", "-c", "rm -f " + conf, "x"},
		{"sh", "-ec", "rm -f " + conf},
		{"sh", "/script.sh"},
		{"cp"},
		{"cp", shim},
		{"cp", "/etc/shadow", "/host/opt/cni/bin/shadow"},
		{"cp", shim, "/host/opt/cni/bin/other"},
		{"cp", "-r", shim, nodeShim},
		{"cp", "-f", "-f", shim, nodeShim},
		{"cp", shim, "../multus-shim"},
		{"cp", shim, "/host/opt/../etc/multus-shim"},
		{"cp", "/usr/src/multus-cni/bin/multus-daemon", "/host/opt/cni/bin/multus-daemon"},
		{"cp", "/usr/src/multus-cni/bin/*", "/host/opt/cni/bin/"},
		{"cp", "-p", conf, "/host/etc/cni/net.d/99-x.conf"},
		{"cp", "-p", conf, "/host/etc/00-multus.hold.conf"},
		{"cp", "--help"},
		{"cp", "/host/etc/cni/net.d/*.conf*", "/host/opt/cni/bin/"},
		{"cp", "/etc/*.conf*", "/host/etc/cni/multus/net.d/"},
		{"cp", shim, "/host/*/multus-shim"},
		{"rm", "-rf", "/"},
		{"rm", "-f", "/etc/shadow"},
		{"rm", conf},
		{"rm", "-f"},
		{"rm", "-rf", "/host/etc/cni/net.d"},
		{"rm", "-f", conf, conf},
		{"rm", "-rf", conf},
		{"rm", "-rf", "/host/var/lib/cni/*"},
		{"rm", "-f", conf, "/host/var/lib/cni/*"},
		{"rm", "-rf", "/host/etc/cni/net.d/10-a.conflist", "/host/var/lib/cni/*"},
		{"rm", "-rf", conf, "/host/var/lib/cni"},
		{"rm", "-rf", conf, "/host/var/lib/*"},
		{"rm", "-rf", conf, "/host/var/lib/cni/*", "/host/var/lib/cni/*"},
		{"rm", "-f", "/host/etc/cni/net.d/10-a.conflist"},
		{"rm", "-f", "/host/etc/cni/net.d/*"},
		{"rm", "-rf", "/host/multus.d"},
		{"rm", "-f", "/tmp/00-multus.conf"},
		{"cat", "/etc/shadow"},
		{"cat"},
		{"cat", "-n", conf},
		{"cat", "/tmp/00-multus.conf"},
		{"sh", "-c", "cp " + shim + " " + nodeShim + "; reboot"},
		{"sh", "-c", "cp " + shim + " " + nodeShim + " && reboot"},
		{"sh", "-c", "cp " + shim + " " + nodeShim + "\nreboot"},
		{"sh", "-c", "cp " + shim + " " + nodeShim + " || reboot"},
		{"sh", "-c", "cp " + shim + " $(reboot)/multus-shim"},
		{"sh", "-c", "cp " + shim + " `reboot`"},
		{"sh", "-c", "cp " + shim + " " + nodeShim + " &"},
		{"sh", "-c", "cp " + shim + " " + nodeShim + " > /x"},
		{"sh", "-c", "cp '" + shim + "' " + nodeShim},
		{"sh", "-c", "&& rm -f " + conf},
		{"sh", "-c", "rm -f " + conf + " || true || true"},
		{"sh", "-c", strings.Repeat("rm -f "+conf+"\n", 200)},
		{"sh", "-c", "sh -c rm"},
		{"sh", "-c", "sleep 5"},
		{"sh", "-c", "cp " + shim + " " + nodeShim + "\x00"},
	} {
		s, out, _ := image(t)
		before := files(t, s.Root)
		err := s.Run(t.Context(), args)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "install_multus") || len(err.Error()) > 1000 {
			t.Errorf("%q: %v", args, err)
		}
		if after := files(t, s.Root); len(after) != len(before) || after[nodeShim] != before[nodeShim] || out.Len() != 0 {
			t.Errorf("%q: something was done", args)
		}
	}
}

// TestFails checks that a failure of an accepted command is an error, unless the line ends with "|| true".
func TestFails(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		script string
		want   string
	}{
		{"cp /usr/src/multus-cni/bin/multus /host/opt/cni/bin/multus", "install multus: "},
		{"cp /usr/src/multus-cni/bin/multus /host/opt/cni/bin/multus && cp " + shim + " " + nodeShim, "install multus: "},
		{"cp /usr/src/multus-cni/bin/multus /host/opt/cni/bin/multus || true", ""},
		{"cp /none/etc/cni/net.d/*.conf* /host/etc/cni/multus/net.d/", "no file matches"},
		{"cat /none/etc/cni/net.d/00-multus.conf", "no such file"},
	} {
		s, _, _ := image(t)
		if err := os.Remove(s.at("/usr/src/multus-cni/bin/multus")); err != nil {
			t.Fatal(err)
		}
		err := s.Run(t.Context(), []string{"sh", "-c", tc.script})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.script, err, tc.want)
		}
		if got := files(t, s.Root)[nodeShim]; got != "old shim" {
			t.Errorf("%s: went on after an error: %s", tc.script, got)
		}
	}
}

// FuzzScript checks that scripts have no other effects than those of the known command lines.
func FuzzScript(f *testing.F) {
	f.Add("cp " + shim + " " + nodeShim + " && rm -f " + conf)
	f.Add("cp /host/etc/cni/net.d/*.conf* /host/etc/cni/multus/net.d/\n# x\nrm -f " + conf + " || true")
	s := &Shell{Root: f.TempDir()}
	f.Fuzz(func(t *testing.T, script string) {
		commands, ok := s.script(script)
		if ok && strings.ContainsAny(strings.ReplaceAll(strings.ReplaceAll(script, "&&", ""), "|| true", ""), "$`;<>(){}") &&
			!strings.Contains(script, "#") {
			t.Errorf("%q was understood: %d commands", script, len(commands))
		}
	})
}
