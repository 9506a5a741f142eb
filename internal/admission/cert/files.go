package cert

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	"multus/internal/fsx"
)

const (
	// filesEvery is the interval at which files are read. The kubelet takes about a minute to write a changed secret.
	filesEvery = 10 * time.Second
	// maxFile limits the size of a certificate's file.
	maxFile = 1 << 20
)

// Files serves the certificate of the files tls.crt and tls.key in a directory, as cert-manager and the kubelet write
// them, and follows their changes.
type Files struct {
	Dir   string
	Clock clock.Clock
	Log   *slog.Logger

	serving atomic.Pointer[pair]
}

// Certificate returns the certificate for a connection. It is for tls.Config.
func (f *Files) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p := f.serving.Load(); p != nil {
		return &p.tls, nil
	}
	return nil, errNone
}

// Ready returns an error while there is no certificate.
func (f *Files) Ready() error {
	_, err := f.Certificate(nil)
	return err
}

// Run follows the files until ctx ends. While they cannot be read, the last certificate is served.
func (f *Files) Run(ctx context.Context) error {
	last := ""
	for {
		err := f.Read()
		if err != nil && err.Error() != last {
			f.Log.Error("certificate of the webhook cannot be read", "err", err)
			last = err.Error()
		} else if err == nil {
			last = ""
		}
		timer := f.Clock.NewTimer(filesEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
		}
	}
}

// Read reads the files once. Files that the kubelet replaces meanwhile may not belong together, which is an error.
func (f *Files) Read() error {
	var content [2][]byte
	for i, name := range []string{keyCert, keyKey} {
		var err error
		if content[i], err = fsx.ReadFile(filepath.Join(f.Dir, name), maxFile); err != nil {
			return fmt.Errorf("read certificate: %w; cert-manager writes the secret that is mounted there", err)
		}
	}
	if old := f.serving.Load(); old != nil && bytes.Equal(old.cert, content[0]) && bytes.Equal(old.key, content[1]) {
		return nil
	}
	p, err := parsePair(content[0], content[1])
	if err != nil {
		return err
	}
	f.serving.Store(p)
	f.Log.Info("serving a certificate of files", "dir", f.Dir, "ends", p.leaf.NotAfter)
	return nil
}
