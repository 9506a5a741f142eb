package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multus/internal/testutil/kubetest"
	"multus/internal/testutil/node"
)

// share is the processor time of ADD and DEL of one pod: that of the plugin, of the delegates with their children, and
// of the daemon.
type share struct {
	Subject   string        `json:"subject"`
	Networks  int           `json:"networks"`
	Plugin    time.Duration `json:"plugin"`
	Delegates time.Duration `json:"delegates"`
	Daemon    time.Duration `json:"daemon"`
}

// sharePods is the number of pods that are measured for each share. The subjects take turns.
const sharePods = 24

// shares measures the shares with the reference plugins, one pod at a time. A program in the place of the delegates
// counts their processor time; its own time is subtracted. This is a measurement of its own because it makes everything
// slower.
func shares(t *testing.T, ours programs, cluster *kubetest.Cluster) []share {
	t.Helper()
	ours.plugins = metered(t, ours.plugins)
	subjects := []*subject{
		newSubject(t, "raw", node.Thin, ours, reference, cluster, nil),
		newSubject(t, "shares-thick", node.Thick, ours, reference, cluster, nil),
		newSubject(t, "shares-thin", node.Thin, ours, reference, cluster, nil),
	}
	var out []share
	for _, networks := range networkCounts {
		of := make([]share, len(subjects))
		pods := make([]*node.Pod, len(subjects))
		for i, s := range subjects {
			of[i] = share{Subject: strings.TrimPrefix(s.name, "shares-"), Networks: networks}
			pods[i] = s.pod(t, reference, fmt.Sprintf("%s-%d", s.name, networks), networks, cluster)
			turn(t, s, pods[i:i+1], networks, 1) // warm up
		}
		for range rounds {
			for i, s := range subjects {
				of[i].add(measureShare(t, s, ours.plugins, pods[i], networks, sharePods/rounds))
			}
		}
		unseen := of[0].Plugin // raw has no plugin, so this is the part of metered that it cannot count itself: its end
		for i := range of {
			of[i].Plugin -= unseen
		}
		out = append(out, of...)
	}
	return out
}

// measureShare attaches and detaches a pod several times. The sum over all rounds is the processor time of one pod.
func measureShare(t *testing.T, s *subject, plugins string, pod *node.Pod, networks, times int) share {
	t.Helper()
	s.exec.take()
	daemon := s.daemonCPU(t)
	must(t, os.RemoveAll(filepath.Join(plugins, "real", "used")))
	turn(t, s, []*node.Pod{pod}, networks, times)
	delegates, meters := used(t, plugins)
	per := func(d time.Duration) time.Duration { return d / time.Duration(times*rounds) }
	return share{
		Plugin: per(s.exec.take() - delegates - meters), Delegates: per(delegates),
		Daemon: per(s.daemonCPU(t) - daemon),
	}
}

func (s *share) add(o share) {
	s.Plugin, s.Delegates, s.Daemon = s.Plugin+o.Plugin, s.Delegates+o.Delegates, s.Daemon+o.Daemon
}

// metered returns a folder of plugins in which the plugin of the networks is counted, with host-local, for which it
// waits.
func metered(t *testing.T, plugins string) string {
	t.Helper()
	dir := installed(t, plugins)
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	must(t, os.Rename(filepath.Join(dir, string(reference)), filepath.Join(dir, "real", string(reference))))
	meter := filepath.Join(t.TempDir(), string(reference))
	build(t, meter, "./metered")
	install(t, meter, dir)
	return dir
}

// used returns the processor time of the delegates since the file was removed, and that of the programs that counted
// it.
func used(t *testing.T, plugins string) (delegates, meters time.Duration) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(plugins, "real", "used"))
	must(t, err)
	for line := range slices.Values(strings.Split(strings.TrimSpace(string(b)), "\n")) {
		var d, m time.Duration
		_, err := fmt.Sscan(line, &d, &m)
		must(t, err)
		delegates, meters = delegates+d, meters+m
	}
	return delegates, meters
}
