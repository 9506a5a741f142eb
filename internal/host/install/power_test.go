package install

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"multus/internal/testutil/disk"
)

// TestPowerLoss cuts the power at a random moment of an upgrade, and once after its end. Each plugin must be completely
// the old or the new one, and after the end the new one. The next installation must repair everything.
func TestPowerLoss(t *testing.T) {
	const rounds = 6
	d := disk.New(t)
	dest := filepath.Join(d.Dir, "bin")
	names, err := Names("all")
	if err != nil {
		t.Fatal(err)
	}
	var sources [2]string
	content := [2][]byte{bytes.Repeat([]byte("old "), 300_000), bytes.Repeat([]byte("newer"), 300_000)}
	for i := range sources {
		sources[i] = t.TempDir()
		for _, name := range names {
			write(t, filepath.Join(sources[i], name), content[i], 0o755)
		}
	}
	bring := func(version int) error {
		return Install(t.Context(), Options{Source: sources[version], Dest: dest, Names: names})
	}
	if err := bring(0); err != nil {
		t.Fatal(err)
	}
	took := 100 * time.Millisecond
	for round := range rounds {
		version := (round + 1) % 2
		start, ended := time.Now(), make(chan error, 1)
		go func() { ended <- bring(version) }()
		done := round == 0
		if done {
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			took = time.Since(start)
		} else {
			time.Sleep(rand.N(took))
		}
		d.Cut(t)
		if !done {
			<-ended // the program may have ended before the cut
		}
		d.Mount(t)
		for _, name := range names {
			got, err := os.ReadFile(filepath.Join(dest, name))
			is := bytes.Equal(got, content[version])
			if err != nil || !is && (done || !bytes.Equal(got, content[1-version])) {
				t.Errorf("round %d: %s holds %d bytes: %v", round, name, len(got), err)
			}
		}
		if err := bring(version); err != nil {
			t.Fatal(err)
		}
		wantListing(t, dest, names...)
	}
}
