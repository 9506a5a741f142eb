package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	hostnode "multus/internal/node"
	"multus/internal/testutil/node"
	"multus/internal/testutil/testnet"
)

// TestRunDirectory makes the file system of the plugin's locks, /run/multus-lock, full, without free inodes or
// read-only before the lock file exists, as for the first pod after a boot. ADD succeeds (the lock file needs no space)
// or fails with the reason. DEL succeeds at the latest after the fault.
func TestRunDirectory(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, k int, kind node.Kind) {
		s := newSite(t, kind, two, nil)
		for i, f := range shortages {
			if !long() && i%2 != k {
				continue
			}
			v := newVolume(t, filepath.Join(t.TempDir(), "v"), volumeSize)
			r := table.row(fmt.Sprintf("/run/multus-lock: %s, %s", f.name, kind))
			r.try()
			// Use a mount namespace: all tests on this machine share the directory.
			s.wrap = []string{
				"unshare", "-m", "/bin/sh", "-c",
				fmt.Sprintf(`mkdir -p %[2]s && mount --bind %[1]q %[2]s && exec "$0"`, v.dir, filepath.Dir(hostnode.LockFile)),
			}
			end := f.begin(v, t, 0)
			err := s.call(t, "ADD")
			if err == nil && f.name != "no space" { // the lock file is empty
				t.Errorf("%s: ADD works: nothing is shown", f.name)
			}
			if err != nil && !strings.Contains(err.Error(), f.says) {
				t.Errorf("%s: ADD: %v, want %q in it", f.name, err, f.says)
			}
			if left := interfaces(t, s.pod.NS); err != nil && len(left) > 0 {
				r.bad(t, &r.interfaces, len(left), "%s: ADD fails and leaves %v", f.name, left)
			}
			end()
			s.recover(t, r, false, f.name)
			s.attach(t)
			end = f.begin(v, t, 0) // now the lock file exists
			for range delTries {
				if err := s.call(t, "DEL"); err != nil && f.dels {
					r.bad(t, &r.stuck, 1, "%s: DEL: %v", f.name, err)
				}
			}
			end()
			s.recover(t, r, false, f.name+", DEL")
			s.wrap = nil
		}
	})
}

// TestDaemonDirectories fills the file systems of the daemon's socket and reports and of the CNI configuration. Plain
// and annotated pods still start, and the old configuration stays complete. When there is space again, every network
// status is right, no report is left, and the new configuration is written, also to the copy for the next boot.
func TestDaemonDirectories(t *testing.T) {
	t.Parallel()
	testnet.RequireRoot(t)
	dir := t.TempDir()
	var volumes []*volume
	for _, name := range []string{"run", "etc", "state-slot"} {
		volumes = append(volumes, newVolume(t, filepath.Join(dir, name), volumeSize))
	}
	s := newSiteAt(t, node.Options{
		Kind: node.Thick, Dir: dir,
		Conf: map[string]any{"plainPods": "local", "daemonTimeout": "10s"},
	}, two)
	for _, f := range shortages {
		r := table.row("directories of the daemon: " + f.name)
		before := s.Generated(t)
		var ends []func()
		faulty := volumes
		if f.name == "read-only" {
			faulty = volumes[1:] // the daemon has a lock file open in the first one
		}
		for _, v := range faulty {
			ends = append(ends, f.begin(v, t, 0))
		}
		s.changePrimary(t)
		annotated, plain := s.makePod(t, "annotated"), s.makePod(t, "plain")
		plain.Annotations = map[string]string{}
		results := map[*node.Pod][]byte{}
		for _, p := range []*node.Pod{annotated, plain} {
			r.try()
			c := s.start(t, p, "ADD")
			if err := c.end(); err != nil {
				r.bad(t, &r.stuck, 1, "%s: ADD of %s: %v", f.name, p.Name, err)
			}
			results[p] = bytes.Clone(c.stdout.Bytes())
		}
		if now := s.Generated(t); !bytes.Equal(now, before) {
			r.bad(t, &r.records, 1, "%s: the configuration is %q", f.name, now)
		}
		for _, end := range ends {
			end()
		}
		s.configured(t, f.name, before)
		for _, p := range []*node.Pod{annotated, plain} {
			s.statusOf(t, r, p, results[p], f.name)
		}
		if !waitFor(t, f.name+": no report waits", func() bool { return len(s.waiting(t)) == 0 }) {
			r.bad(t, &r.records, 1, "%s: reports left: %v", f.name, s.waiting(t))
		}
		s.clean(t, r, f.name)
	}
}

// configured waits until the configuration and its copy differ from before.
func (s *site) configured(t *testing.T, what string, before []byte) {
	t.Helper()
	for _, path := range []string{
		filepath.Join(s.Dir, "etc", "00-multus.conf"),
		filepath.Join(s.State()+"-slot", "00-multus.conf"),
	} {
		waitFor(t, what+": "+path+" is written", func() bool {
			b, err := os.ReadFile(path)
			return err == nil && !bytes.Equal(b, before)
		})
	}
}

// statusOf compares the network status of another pod with its result, and deletes the pod.
func (s *site) statusOf(t *testing.T, r *row, p *node.Pod, result []byte, what string) {
	t.Helper()
	names := s.variant.names
	if len(p.Annotations) == 0 {
		s.variant.names = names[:1]
	}
	s.with(p, func() {
		s.prev = result
		s.checkStatus(t, r, what+", "+p.Name)
		s.del(t, r, what+", "+p.Name)
	})
	s.variant.names = names
}
