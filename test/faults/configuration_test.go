package faults

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/testutil/node"
)

// TestConfigurationIsAlwaysValid checks that a reader of the runtime's configuration always finds a valid one, while
// the file of the cluster network is written, truncated, renamed and removed and the daemon is killed and started at
// random.
func TestConfigurationIsAlwaysValid(t *testing.T) {
	t.Parallel()
	s := newSite(t, node.Thick, variants[1], nil)
	s.Generated(t)
	r := table.row("configuration read while its source changes")
	file, ok := s.conf["clusterNetwork"].(string)
	if !ok {
		t.Fatal("no cluster network")
	}
	whole, err := os.ReadFile(file)
	check(t, err)
	done := make(chan struct{})
	kills, looks := 0, 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(rand.N(100 * time.Millisecond)):
				s.StopDaemon(t)
				s.StartDaemon(t)
				kills++
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			looks++
			b, err := os.ReadFile(filepath.Join(s.Dir, "etc", "00-multus.conf"))
			if err == nil {
				_, err = libcni.NetworkPluginConfFromBytes(b)
			}
			if err != nil {
				r.bad(t, &r.records, 1, "look %d: %q: %v", looks, b, err)
				return
			}
		}
	})
	rounds := 250
	if long() {
		rounds = 2500 // each round writes, truncates, renames and removes: 10,000 changes
	}
	other := bytes.ReplaceAll(whole, []byte("portMappings"), []byte("bandwidth"))
	for i := range rounds {
		r.try()
		err := os.WriteFile(file, [][]byte{whole, other}[i%2], 0o644)
		time.Sleep(rand.N(40 * time.Millisecond)) // so that the daemon sees some of the states
		check(t, errors.Join(err, os.Truncate(file, rand.Int64N(int64(len(whole)))), os.Rename(file, file+".bak"),
			os.Remove(file+".bak")))
	}
	close(done)
	wg.Wait()
	t.Logf("%d looks, %d changes, the daemon killed %d times", looks, 4*rounds, kills)
	if looks == 0 || kills == 0 {
		t.Error("nothing is shown")
	}
}
