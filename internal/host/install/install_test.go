package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multus/internal/fsx"
	"multus/internal/testutil/leak"
)

const (
	// roleVar makes a copy of this test binary act as an installer, or as a plugin that the runtime calls.
	roleVar = "INSTALL_TEST_ROLE"
	// noRaceSleep avoids the second that a binary built with -race waits before it exits.
	noRaceSleep = "GORACE=atexit_sleep_ms=0"
)

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVar); {
	case filepath.Base(os.Args[0]) == LegacyName:
		cmd := LegacyCommand()
		cmd.SetArgs(os.Args[1:])
		exit(cmd.ExecuteContext(context.Background()))
	case role == "installer":
		exit(installer())
	case role == "plugin":
		_, err := io.Copy(io.Discard, os.Stdin)
		exit(err)
	default:
		leak.Main(m)
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// installer installs Args[1] into Args[2] when the test allows it.
func installer() error {
	fmt.Println("ready")
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	plugins, err := Names("all")
	if err != nil {
		return err
	}
	return Install(context.Background(), Options{Source: os.Args[1], Dest: os.Args[2], Names: plugins})
}

func names(tb testing.TB) []string {
	tb.Helper()
	all, err := Names("all")
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// process is an installer that waits for allow.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer
}

func startInstaller(t *testing.T, source, dest string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], source, dest)}
	p.cmd.Env = append(os.Environ(), roleVar+"=installer", noRaceSleep)
	p.cmd.Stderr = &p.stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 16)); err != nil {
		t.Fatalf("installer did not start: %v", err)
	}
	return p
}

func (p *process) allow(t *testing.T) {
	t.Helper()
	if _, err := p.stdin.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

func (p *process) wait(t *testing.T) {
	t.Helper()
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("installer: %v: %s", err, &p.stderr)
	}
}

// version makes a source directory whose files differ from those of every other seed.
func version(tb testing.TB, size int, seed uint64) string {
	tb.Helper()
	dir := tb.TempDir()
	src := rand.NewChaCha8([32]byte{byte(seed)})
	for _, name := range names(tb) {
		b := make([]byte, size+int(seed))
		_, _ = src.Read(b)
		write(tb, filepath.Join(dir, name), b, 0o755)
	}
	return dir
}

func write(tb testing.TB, path string, b []byte, mode fs.FileMode) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, b, mode); err != nil {
		tb.Fatal(err)
	}
}

func sum(tb testing.TB, path string) [32]byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return sha256.Sum256(b)
}

func inode(tb testing.TB, path string) uint64 {
	tb.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		tb.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func listing(tb testing.TB, dir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func wantListing(tb testing.TB, dir string, want ...string) {
	tb.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := listing(tb, dir); !slices.Equal(got, want) {
		tb.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	source := version(t, 100_000, 1)
	for _, tt := range []struct {
		name  string
		setUp func(t *testing.T, path string)
		state State
		same  bool // the inode does not change
	}{
		{"fresh", func(*testing.T, string) {}, Copied, false},
		{"older", func(t *testing.T, path string) { write(t, path, []byte("old"), 0o755) }, Copied, false},
		{"truncated", func(t *testing.T, path string) { write(t, path, nil, 0o755) }, Copied, false},
		{"same size", func(t *testing.T, path string) { write(t, path, make([]byte, 100_001), 0o755) }, Copied, false},
		{"equal", func(t *testing.T, path string) { copyFile(t, filepath.Join(source, shim), path, 0o755) }, Equal, true},
		{
			"equal, mode lost", func(t *testing.T, path string) { copyFile(t, filepath.Join(source, shim), path, 0o600) }, Equal,
			true,
		},
		{"link", func(t *testing.T, path string) { link(t, filepath.Join(source, shim), path) }, Copied, false},
		{"dangling link", func(t *testing.T, path string) { link(t, "/nowhere/plugin", path) }, Copied, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dest := filepath.Join(t.TempDir(), "cni", "bin")
			path := filepath.Join(dest, shim)
			if err := os.MkdirAll(dest, 0o755); err != nil {
				t.Fatal(err)
			}
			tt.setUp(t, path)
			before := uint64(0)
			if _, err := os.Lstat(path); err == nil {
				before = inode(t, path)
			}
			var got []File
			o := Options{Source: source, Dest: dest, Names: []string{shim}, Report: func(f File) { got = append(got, f) }}
			if err := Install(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			if want := (File{shim, filepath.Join(source, shim), tt.state}); len(got) != 1 || got[0] != want {
				t.Errorf("reported %v, want %v", got, want)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != 0o755 {
				t.Errorf("mode %v", info.Mode())
			}
			if sum(t, path) != sum(t, filepath.Join(source, shim)) {
				t.Error("content differs from the source's")
			}
			if same := before == inode(t, path); same != tt.same {
				t.Errorf("same inode: %v, want %v", same, tt.same)
			}
			wantListing(t, dest, shim)
		})
	}
}

func copyFile(t *testing.T, from, to string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, b, mode)
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func TestInstallFails(t *testing.T) {
	t.Parallel()
	source := version(t, 1000, 1)
	t.Run("incomplete source", func(t *testing.T) {
		t.Parallel()
		dest := t.TempDir()
		err := Install(t.Context(), Options{Source: source, Dest: dest, Names: []string{shim, "absent"}})
		if fe := (*FileError)(nil); !errors.As(err, &fe) || fe.File.Name != "absent" || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v", err)
		}
		wantListing(t, dest) // nothing is installed
	})
	t.Run("directory in the way", func(t *testing.T) {
		t.Parallel()
		dest := t.TempDir()
		write(t, filepath.Join(dest, shim, "file"), nil, 0o600)
		if err := Install(t.Context(), Options{Source: source, Dest: dest, Names: []string{shim}}); err == nil {
			t.Error("a directory was replaced")
		}
		wantListing(t, dest, shim)
	})
	t.Run("ended context", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		dest := t.TempDir()
		if err := Install(ctx, Options{Source: source, Dest: dest, Names: []string{shim}}); !errors.Is(err,
			context.Canceled) {
			t.Errorf("error %v", err)
		}
		wantListing(t, dest)
	})
	t.Run("another installer hangs", func(t *testing.T) {
		t.Parallel()
		dest := t.TempDir()
		held, err := lockDir(t.Context(), dest)
		if err != nil {
			t.Fatal(err)
		}
		defer held.close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := Install(ctx, Options{Source: source, Dest: dest, Names: []string{shim}}); !errors.Is(err,
			context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

// TestInstallFullDisk checks that a failed copy leaves the old file and no other file, and that a read-only directory
// with equal files is no error.
func TestInstallFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dest := t.TempDir()
	if err := unix.Mount("none", dest, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dest, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	small, large := version(t, 10_000, 1), version(t, 1<<20, 2)
	install := func(source string) error {
		return Install(t.Context(), Options{Source: source, Dest: dest, Names: []string{shim}})
	}
	if err := install(small); err != nil {
		t.Fatal(err)
	}
	if err := install(large); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("full: %v", err)
	}
	wantListing(t, dest, shim)
	if sum(t, filepath.Join(dest, shim)) != sum(t, filepath.Join(small, shim)) {
		t.Error("the old file is gone")
	}
	if err := unix.Mount("none", dest, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := install(small); err != nil {
		t.Errorf("read-only, equal: %v", err)
	}
	if err := install(large); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only, different: %v", err)
	}
}

func TestReferencePlugins(t *testing.T) {
	t.Parallel()
	source, dest := version(t, 1000, 1), t.TempDir()
	missing := filepath.Join(source, ReferenceDir)
	for _, name := range []string{"bridge", "host-local", "macvlan", shim, ".hidden"} {
		write(t, filepath.Join(missing, name), []byte("ours "+name), 0o755)
	}
	write(t, filepath.Join(dest, "bridge"), []byte("theirs"), 0o755)
	link(t, "/out/of/sight", filepath.Join(dest, "host-local"))
	got := map[string]State{}
	o := Options{
		Source: source, Dest: dest, Names: []string{shim}, Missing: missing,
		Report: func(f File) { got[f.Name] = f.State },
	}
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	want := map[string]State{shim: Copied, "bridge": Kept, "host-local": Kept, "macvlan": Copied}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	wantListing(t, dest, shim, "bridge", "host-local", "macvlan")
	if b, _ := os.ReadFile(filepath.Join(dest, "bridge")); string(b) != "theirs" {
		t.Error("the distribution's plugin was replaced")
	}
}

// TestInstallOverRunning checks that a plugin can be replaced again and again while 20 processes run the old one and
// start it without a pause (multus-cni#1221).
func TestInstallOverRunning(t *testing.T) {
	const workers, rounds = 20, 5
	versions := []string{t.TempDir(), t.TempDir()}
	for i, dir := range versions {
		b, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names(t) {
			write(t, filepath.Join(dir, name), append(b, byte(i)), 0o755) // what follows an ELF file has no effect
		}
	}
	dest := t.TempDir()
	path := filepath.Join(dest, shim)
	p := startInstaller(t, versions[0], dest)
	p.allow(t)
	p.wait(t)

	plugin := func(stdin io.Reader) *exec.Cmd {
		cmd := exec.Command(path)
		cmd.Env = append(os.Environ(), roleVar+"=plugin", noRaceSleep)
		cmd.Stdin = stdin
		return cmd
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	blocked := make([]*exec.Cmd, workers)
	for i := range blocked {
		blocked[i] = plugin(r)
		if err := blocked[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	r.Close()
	var started atomic.Int32
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range workers {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if out, err := plugin(nil).CombinedOutput(); err != nil {
					t.Errorf("start the plugin: %v %s", err, out)
					return
				}
				started.Add(1)
			}
		})
	}
	for i := range rounds {
		before := inode(t, path)
		p := startInstaller(t, versions[(i+1)%2], dest)
		p.allow(t)
		p.wait(t)
		if inode(t, path) == before {
			t.Error("the installer kept the old file")
		}
	}
	close(stop)
	all.Wait()
	w.Close()
	for _, cmd := range blocked {
		if err := cmd.Wait(); err != nil {
			t.Errorf("running plugin: %v", err)
		}
	}
	wantListing(t, dest, names(t)...)
	t.Logf("%d starts, %d running, %d installs", started.Load(), workers, rounds)
}

// TestInstallKilled kills installers at random moments.
func TestInstallKilled(t *testing.T) {
	const most = 300
	kills := most
	if testing.Short() {
		kills = 20 // or more, until one hits a copy
	}
	versions := []string{version(t, 1<<20, 1), version(t, 1<<20, 2)}
	dest := t.TempDir()
	known := map[string]map[[32]byte]bool{}
	for _, name := range names(t) {
		known[name] = map[[32]byte]bool{}
		for _, v := range versions {
			known[name][sum(t, filepath.Join(v, name))] = true
		}
	}
	complete := func(source string) time.Duration {
		p := startInstaller(t, source, dest)
		begin := time.Now()
		p.allow(t)
		p.wait(t)
		wantListing(t, dest, names(t)...)
		for _, name := range names(t) {
			if sum(t, filepath.Join(dest, name)) != sum(t, filepath.Join(source, name)) {
				t.Fatalf("%s is not that of the last install", name)
			}
		}
		return time.Since(begin)
	}
	complete(versions[0])
	whole := complete(versions[1])
	leftovers := 0
	for i := 0; i < kills || leftovers == 0 && i < most; i++ {
		p := startInstaller(t, versions[i%2], dest)
		p.allow(t)
		time.Sleep(rand.N(whole))
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.cmd.Wait() // an error, because the process was killed
		for _, name := range names(t) {
			path := filepath.Join(dest, name)
			if !known[name][sum(t, path)] {
				t.Fatalf("kill %d: %s is neither the old nor the new one", i, name)
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o755 {
				t.Fatalf("kill %d: %v %v", i, info.Mode(), err)
			}
		}
		if len(listing(t, dest)) > len(names(t)) {
			leftovers++
		}
		if i%20 == 19 {
			complete(versions[rand.N(2)])
		}
	}
	complete(versions[0])
	t.Logf("%d kills within %v, %d times with a temporary file left", kills, whole, leftovers)
	if leftovers == 0 {
		t.Error("no kill hit a copy: the test shows nothing")
	}
}

// TestInstallersAtOnce checks that concurrent installers all succeed, that the last one wins, and that none removes a
// temporary file that another one writes.
func TestInstallersAtOnce(t *testing.T) {
	t.Parallel()
	versions := []string{version(t, 1<<20, 1), version(t, 1<<20, 2)}
	dest := t.TempDir()
	for range 5 {
		var ps []*process
		for i := range 8 {
			ps = append(ps, startInstaller(t, versions[i%2], dest))
		}
		for _, p := range ps {
			p.allow(t)
		}
		for _, p := range ps {
			p.wait(t)
		}
		wantListing(t, dest, names(t)...)
		last := -1
		for i, v := range versions {
			if sum(t, filepath.Join(v, shim)) == sum(t, filepath.Join(dest, shim)) {
				last = i
			}
		}
		if last < 0 {
			t.Fatal("the plugin is of no version")
		}
		for _, name := range names(t) {
			if sum(t, filepath.Join(versions[last], name)) != sum(t, filepath.Join(dest, name)) {
				t.Errorf("%s is of another version than %s", name, shim)
			}
		}
	}
}

// TestSweep checks that abandoned temporary files are removed, also those with a time in the future, and that a file
// which may be in use stays.
func TestSweep(t *testing.T) {
	t.Parallel()
	source, dest := version(t, 1000, 1), t.TempDir()
	f, err := fsx.CreateTemp(dest)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	future := time.Now().Add(240 * time.Hour)
	if err := os.Chtimes(f.Name(), future, future); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dest, ".multus-tmp-mine"), nil, 0o600)
	if err := Install(t.Context(), Options{Source: source, Dest: dest, Names: []string{shim}}); err != nil {
		t.Fatal(err)
	}
	wantListing(t, dest, shim, ".multus-tmp-mine")
}

// TestNames: which plugins belong to a deployment, by the names that configurations have (behaviour Q1).
func TestNames(t *testing.T) {
	t.Parallel()
	for deployment, want := range map[string]string{
		"thick": "multus-shim passthru", "thin": "multus passthru", "all": "multus-shim multus passthru", "": "", "Thick": "",
	} {
		got, err := Names(deployment)
		if strings.Join(got, " ") != want || (err == nil) != (want != "") {
			t.Errorf("Names(%q) = %q, %v", deployment, got, err)
		}
	}
}

// TestLegacy runs the program under the name of today's image (behaviour G30, G31, O43).
func TestLegacy(t *testing.T) {
	t.Parallel()
	source := version(t, 1000, 1)
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(source, "multus-daemon"), self, 0o755)
	program := filepath.Join(t.TempDir(), LegacyName)
	link(t, filepath.Join(source, "multus-daemon"), program)
	run := func(args ...string) (string, string, int) {
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), noRaceSleep)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if ee := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ee) {
			t.Fatal(err)
		}
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	for _, tt := range []struct {
		kind  string
		args  func(dest string) []string
		names []string
	}{
		{"thick", func(dest string) []string { return []string{"-d", dest, "-t", "thick"} }, []string{shim, passthru}},
		{
			"thin", func(dest string) []string { return []string{"--dest-dir=" + dest, "--type", "thin"} },
			[]string{thin, passthru},
		},
	} {
		dest := t.TempDir()
		stdout, stderr, code := run(tt.args(dest)...)
		want := fmt.Sprintf("multus %[1]s/%[2]s copy succeeded!\npassthru cni %[1]s/passthru copy succeeded!\n", source,
			tt.names[0])
		if stdout != want || code != 0 {
			t.Errorf("%s: exit %d, stdout %q, stderr %q, want %q", tt.kind, code, stdout, stderr, want)
		}
		wantListing(t, dest, tt.names...)
	}
	for _, args := range [][]string{nil, {"-t", "both"}, {"-t", "all"}} {
		_, stderr, code := run(args...)
		if want := "--type is missing or --type has invalid value"; code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%q: exit %d, stderr %q", args, code, stderr)
		}
	}
	if _, stderr, code := run("-h"); code != 1 || !strings.Contains(stderr, "--dest-dir") {
		t.Errorf("help: exit %d, stderr %q", code, stderr)
	}
	if err := os.Remove(filepath.Join(source, passthru)); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := run("-t", "thin", "-d", t.TempDir())
	if want := "failed to copy file " + source + "/passthru: "; code != 1 || !strings.Contains(stderr, want) {
		t.Errorf("incomplete image: exit %d, stderr %q, want %q", code, stderr, want)
	}
}
