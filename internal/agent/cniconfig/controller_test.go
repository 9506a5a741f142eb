package cniconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/config"
	"multus/internal/testutil/eventually"
)

// waitTimeout limits how long a test waits.
const waitTimeout = 20 * time.Second

func primary(name, typ string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":%q,"capabilities":{"portMappings":true}}]}`,
		name, typ)
}

// controllerAt makes a controller with dir as the directory of both the runtime and the cluster network.
func controllerAt(t *testing.T, dir string, over string) *Controller {
	t.Helper()
	conf, err := config.ParseDaemon([]byte(over))
	if err != nil {
		t.Fatal(err)
	}
	conf.CNIConfigDir = dir
	if conf.MultusAutoconfigDir == "" {
		conf.MultusAutoconfigDir = dir
	}
	return NewController(conf, slog.New(slog.DiscardHandler))
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// startController runs a controller until the end of the test, or until the function that it returns is called, which
// waits for the end.
func startController(t *testing.T, s *Controller) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func runController(t *testing.T, s *Controller) {
	t.Helper()
	startController(t, s)
}

func has(path, text string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.Contains(string(b), text)
}

// TestHoldCopyIsRemoved checks that the copy which replaces the CNI configuration file during an upgrade is no cluster
// network, and that it is removed when our file exists, but not before. Another file of that name stays.
func TestHoldCopyIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	held := filepath.Join(dir, HoldName)
	put(t, dir, HoldName, `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus-shim","clusterNetwork":"/host/etc/cni/net.d/10-a.conflist"}`)
	s := controllerAt(t, dir, `{}`)
	runController(t, s)
	eventually.Within(t, waitTimeout, "the reason", func() bool { return errors.Is(s.InForce(), ErrNoPrimary) })
	if _, err := os.Stat(held); err != nil {
		t.Fatalf("removed before there is another one: %v", err)
	}
	put(t, dir, "10-a.conflist", primary("a", "a"))
	eventually.Within(t, waitTimeout, "the copy is gone",
		func() bool { _, err := os.Stat(held); return errors.Is(err, os.ErrNotExist) })
	if !has(filepath.Join(dir, FileName), "10-a.conflist") || s.InForce() != nil {
		t.Errorf("our file is not there: %v", s.InForce())
	}
	put(t, dir, HoldName, primary("b", "b"))
	put(t, dir, "05-c.conflist", primary("c", "c"))
	eventually.Within(t, waitTimeout, "the file of 05-c",
		func() bool { return !has(filepath.Join(dir, FileName), "10-a.conflist") })
	if _, err := os.Stat(held); err != nil {
		t.Errorf("another's file was removed: %v", err)
	}
}

// TestFileIsRestoredAfterReboot checks that after a reboot that has emptied the directory, our file is restored before
// the cluster network's exists, so that no pod starts with the cluster network alone (multus-cni#1387). A saved file
// that is not ours, or not complete, is not restored.
func TestFileIsRestoredAfterReboot(t *testing.T) {
	t.Parallel()
	dir, memory := t.TempDir(), filepath.Join(t.TempDir(), "slot", FileName)
	file := filepath.Join(dir, FileName)
	life := func(t *testing.T, during func(s *Controller)) {
		t.Helper()
		s := controllerAt(t, dir, `{}`)
		s.SaveFile = memory
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		during(s)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	put(t, dir, "10-a.conflist", primary("a", "a"))
	life(t, func(s *Controller) {
		eventually.Within(t, waitTimeout, "the first", func() bool { return s.InForce() == nil })
	})
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	empty := func() {
		for _, name := range []string{FileName, "10-a.conflist"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	empty()
	life(t, func(*Controller) {
		eventually.Within(t, waitTimeout, "the stored configuration",
			func() bool { b, err := os.ReadFile(file); return err == nil && bytes.Equal(b, first) })
		put(t, dir, "10-a.conflist", strings.ReplaceAll(primary("a", "a"), "portMappings", "bandwidth"))
		eventually.Within(t, waitTimeout, "that of the new cluster network",
			func() bool { return has(file, `"bandwidth":true`) && has(memory, `"bandwidth":true`) })
	})
	for _, damaged := range []string{"", `{"type":"multus-shim"`, primary("a", "a")} {
		empty()
		put(t, filepath.Dir(memory), FileName, damaged)
		life(t, func(s *Controller) {
			eventually.Within(t, waitTimeout, "the reason", func() bool { return errors.Is(s.InForce(), ErrNoPrimary) })
			if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%q was written: %v", damaged, err)
			}
		})
	}
}

// TestControllerFollowsClusterNetwork checks that the cluster network is found when its file appears, followed when the
// file is changed or renamed, and kept when the file is removed (behaviour F20, F21, F27, F28, F30-F32;
// rancher/rke2#10360).
func TestControllerFollowsClusterNetwork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	put(t, dir, "87-podman-bridge.conflist", primary("podman", "bridge"))
	put(t, dir, "70-multus.conf", `{"name":"x","type":"multus","delegates":[{"type":"bridge"}]}`)
	s := controllerAt(t, dir, `{}`)
	runController(t, s)
	eventually.Within(t, waitTimeout, "the reason", func() bool { return errors.Is(s.InForce(), ErrNoPrimary) })
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was written without a cluster network")
	}
	put(t, dir, "10-a.conflist", primary("a", "a"))
	eventually.Within(t, waitTimeout, "10-a", func() bool { return has(file, "10-a.conflist") && s.InForce() == nil })
	put(t, dir, "05-b.conflist", primary("b", "b"))
	eventually.Within(t, waitTimeout, "05-b, which is earlier", func() bool { return has(file, "05-b.conflist") })
	if err := os.Rename(filepath.Join(dir, "05-b.conflist"), filepath.Join(dir, "06-b.json")); err != nil {
		t.Fatal(err)
	}
	eventually.Within(t, waitTimeout, "06-b", func() bool { return has(file, "06-b.json") || has(file, "10-a.conflist") })
	put(t, dir, "06-b.json", `{"cniVersion":"1.0.0","name":"b","type":"b","capabilities":{"bandwidth":true}}`)
	eventually.Within(t, waitTimeout, "the capability of 06-b", func() bool { return has(file, `"bandwidth":true`) })
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"06-b.json", "10-a.conflist"} {
		put(t, dir, name, `{"cniVersion":`)
	}
	put(t, dir, "07-c.conflist", primary("c", "c"))
	eventually.Within(t, waitTimeout, "07-c, and the broken files are skipped",
		func() bool { return has(file, "07-c.conflist") })
	if err := os.Remove(filepath.Join(dir, "07-c.conflist")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "06-b.json", `{"cniVersion":"1.0.0","name":"b","type":"b","capabilities":{"bandwidth":true}}`)
	eventually.Within(t, waitTimeout, "06-b again",
		func() bool { b, err := os.ReadFile(file); return err == nil && bytes.Equal(b, good) })
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

// TestLastGoodConfigurationStays checks that without a usable cluster network the file stays, byte for byte, also over
// a restart (behaviour F31, F34; multus-cni#1387).
func TestLastGoodConfigurationStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	put(t, dir, "10-a.conflist", primary("a", "a"))
	first := controllerAt(t, dir, `{}`)
	first.sync()
	good, err := os.ReadFile(file)
	if err != nil || first.InForce() != nil {
		t.Fatal(err, first.InForce())
	}
	put(t, dir, "10-a.conflist", "")
	for _, s := range []*Controller{first, controllerAt(t, dir, `{}`)} {
		s.sync()
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, good) || s.InForce() != nil {
			t.Errorf("got %q, %v, %v", got, err, s.InForce())
		}
	}
	put(t, dir, "10-a.conflist", primary("a", "a"))
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	controllerAt(t, dir, `{}`).sync()
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Errorf("an equal file was written again: %v", err)
	}
}

// TestRemovedFileIsRestored checks that a file which is renamed or removed is put back, and that a configuration
// conflict is reported and ends this (multus-cni#972).
func TestRemovedFileIsRestored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	put(t, dir, "10-a.conflist", primary("a", "a"))
	s := controllerAt(t, dir, `{}`)
	lost := make(chan error, 1)
	s.OnConflict = func(err error) { lost <- err }
	runController(t, s)
	there := func() bool { return has(file, "10-a.conflist") }
	eventually.Within(t, waitTimeout, "the file", there)
	for range conflictLimit {
		if err := os.Rename(file, file+".cilium_bak"); err != nil {
			t.Fatal(err)
		}
		eventually.Within(t, waitTimeout, "the file, put back", there)
	}
	if err := os.Rename(file, file+".cilium_bak"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-lost:
		if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "cni.exclusive=false") {
			t.Error(err)
		}
	case <-time.After(waitTimeout):
		t.Fatal("the configuration conflict does not end")
	}
	if !errors.Is(s.InForce(), ErrConflict) {
		t.Errorf("owned: %v", s.InForce())
	}
}

// TestUserFile checks that the file which multusConfigFile names is copied and followed, and that the daemon keeps
// running (behaviour F10; multus-cni#1366).
func TestUserFile(t *testing.T) {
	t.Parallel()
	dir, own := t.TempDir(), t.TempDir()
	put(t, own, "mine.conf", `{"cniVersion":"1.0.0","name":"mine","type":"multus-shim","clusterNetwork":"/a"}`)
	s := controllerAt(t, dir, fmt.Sprintf(`{"multusConfigFile":%q}`, filepath.Join(own, "mine.conf")))
	runController(t, s)
	file := filepath.Join(dir, "mine.conf")
	eventually.Within(t, waitTimeout, "the copy", func() bool { return has(file, `"/a"`) && s.InForce() == nil })
	put(t, own, "mine.conf", `{"cniVersion":"1.0.0","name":"mine","type":"multus-shim","clusterNetwork":"/b"}`)
	eventually.Within(t, waitTimeout, "the change", func() bool { return has(file, `"/b"`) })
}

// TestInvalidUserFile checks that a file with which no pod could start, or every CHECK would fail, is not put in
// force.
func TestInvalidUserFile(t *testing.T) {
	t.Parallel()
	for _, key := range []string{`"cniVersion":"1.2.0"`, `"cniVersion":"1.0.0","checkNetworks":"al"`} {
		dir, own := t.TempDir(), t.TempDir()
		put(t, own, "mine.conf", `{`+key+`,"name":"mine","type":"multus-shim","clusterNetwork":"/a"}`)
		s := controllerAt(t, dir, fmt.Sprintf(`{"multusConfigFile":%q}`, filepath.Join(own, "mine.conf")))
		s.sync()
		if _, err := os.Stat(filepath.Join(dir, "mine.conf")); !errors.Is(err, os.ErrNotExist) || s.Ready() == nil ||
			!strings.Contains(s.Ready().Error(), "mine.conf: CNI configuration") {
			t.Errorf("%s: written: %v, ready: %v", key, err, s.Ready())
		}
	}
}

// TestReaderAlwaysFindsValidFile checks that a reader in a loop always finds a valid file while the cluster network's
// file is rewritten, truncated, renamed and removed.
func TestReaderAlwaysFindsValidFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	put(t, dir, "10-a.conflist", primary("a", "a"))
	s := controllerAt(t, dir, `{}`)
	runController(t, s)
	eventually.Within(t, waitTimeout, "the file", func() bool { return has(file, "10-a.conflist") })
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var looks atomic.Int64
	wg.Go(func() {
		for ; ; looks.Add(1) {
			select {
			case <-stop:
				return
			default:
			}
			b, err := os.ReadFile(file)
			if err == nil {
				_, err = libcni.NetworkPluginConfFromBytes(b)
			}
			if err != nil {
				t.Errorf("look %d: %v", looks.Load(), err)
				return
			}
		}
	})
	rounds := 2500 // each writes, truncates, renames and removes: 10,000 changes
	if testing.Short() {
		rounds = 100
	}
	at := filepath.Join(dir, "10-a.conflist")
	done := 0
	for ; done < rounds || looks.Load() == 0 && !t.Failed(); done++ { // a busy machine may not have run the reader yet
		i := done
		put(t, dir, "10-a.conflist", primary("a", fmt.Sprintf("a%d", i%7)))
		if err := errors.Join(os.Truncate(at, int64(i%40)), os.Rename(at, at+".bak"), os.Remove(at+".bak")); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d reads during %d changes", looks.Load(), 4*done)
}

// TestReadyReportsConfigurationNotInForce checks that while the last good configuration is served because the wanted
// one cannot be used, the daemon is not ready and logs an error at every level, but the runtime still calls Multus.
func TestReadyReportsConfigurationNotInForce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		break_ func(t *testing.T, dir string)
		want   string
	}{
		"a file of the cluster network that is not a configuration": {
			func(t *testing.T, dir string) { put(t, dir, "10-a.conflist", "{") },
			"10-a.conflist",
		},
		"a file of the cluster network that was removed": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "10-a.conflist")); err != nil {
				t.Fatal(err)
			}
		}, ErrNoPrimary.Error()},
		"a capability that no plugin supports": {func(t *testing.T, dir string) {
			put(t, dir, "10-a.conflist", `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"a","capabilities":{"x":"yes"}}]}`)
		}, "capabilities"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, dir, "10-a.conflist", primary("a", "a"))
			s := controllerAt(t, dir, `{}`)
			log := &bytes.Buffer{}
			s.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))
			s.sync()
			if s.Ready() != nil || log.String() != "" {
				t.Fatal(s.Ready(), log)
			}
			tc.break_(t, dir)
			for range 3 {
				s.sync()
			}
			if s.InForce() != nil || s.Ready() == nil || !strings.Contains(s.Ready().Error(), tc.want) {
				t.Errorf("owned %v, ready %v", s.InForce(), s.Ready())
			}
			if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), tc.want) {
				t.Errorf("%d records, want one with %q:\n%s", n, tc.want, log)
			}
			put(t, dir, "10-a.conflist", primary("a", "a"))
			s.sync()
			if s.Ready() != nil {
				t.Errorf("mended, and %v", s.Ready())
			}
		})
	}
}

// TestSkippedFilesAreLogged checks that an error is logged if the first file by name cannot be used, or if the chosen
// file disappears, although another file is used.
func TestSkippedFilesAreLogged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "10-a.conflist", primary("a", "a"))
	put(t, dir, "04-podman.conflist", primary("podman", "bridge"))
	s := controllerAt(t, dir, `{}`)
	log := &bytes.Buffer{}
	s.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))
	s.sync()
	s.sync() // our own file exists now, and is no cluster network
	if log.String() != "" {
		t.Errorf("no problem is reported: %s", log)
	}
	put(t, dir, "05-b.conflist", `{"cniVersion":"1.0.0","name":"b","plugins":[]}`)
	s.sync()
	s.sync()
	if n := strings.Count(log.String(), "05-b.conflist"); n != 1 {
		t.Errorf("%d records about 05-b.conflist, want one:\n%s", n, log)
	}
	put(t, dir, "05-b.conflist", primary("b", "b"))
	s.sync()
	if err := os.Remove(filepath.Join(dir, "05-b.conflist")); err != nil {
		t.Fatal(err)
	}
	s.sync()
	if !strings.Contains(log.String(), "does not exist any more") || !has(filepath.Join(dir, FileName), "10-a.conflist") {
		t.Errorf("05-b.conflist has vanished:\n%s", log)
	}
}
