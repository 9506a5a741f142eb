package kubetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"multus/internal/testutil/module"
)

// DeleteCRD deletes the CRD of network definitions, and with it all network definitions. It returns when they are no
// longer served.
func (c *Cluster) DeleteCRD(tb testing.TB) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	if err := c.dyn.Resource(crds).Delete(ctx, networks.Resource+"."+networks.Group, metav1.DeleteOptions{}); err != nil {
		tb.Fatalf("delete CRD: %v", err)
	}
	err := c.poll(ctx, func() error {
		_, err := c.dyn.Resource(networks).Namespace(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("network definitions are still served"), err)
	})
	if err != nil {
		tb.Fatalf("wait for the end of the CRD: %v", err)
	}
}

// CreateCRD creates the CRD again after DeleteCRD. The network definitions are not restored.
func (c *Cluster) CreateCRD(tb testing.TB) {
	tb.Helper()
	root, err := module.Root()
	if err == nil {
		err = c.installCRD(root)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// RotateToken restarts the API server with another token of the administrator, which Token returns from then on. The
// previous token is rejected.
func (c *Cluster) RotateToken(tb testing.TB) {
	tb.Helper()
	c.token = fmt.Sprintf("%s-%d", adminToken, len(c.token))
	c.startAnew(tb, c.writeTokens())
}

// RotateCA restarts the API server with a certificate of another authority, which CA returns from then on.
func (c *Cluster) RotateCA(tb testing.TB) {
	tb.Helper()
	c.startAnew(tb, c.writeFiles())
}

// startAnew restarts the API server with new files and connects the clients of the fixtures again. err is the error of
// writing the files.
func (c *Cluster) startAnew(tb testing.TB, err error) {
	tb.Helper()
	if err := errors.Join(err, c.connect()); err != nil {
		tb.Fatal(err)
	}
	c.Restart(tb)
}

// Compact compacts etcd up to its current revision and restarts the API server, which empties its watch cache. A watch
// that continues from an earlier revision is then answered with 410.
func (c *Cluster) Compact(tb testing.TB) {
	tb.Helper()
	ctx, cancel := callContext(tb)
	defer cancel()
	var status struct {
		Header struct {
			Revision string `json:"revision"`
		} `json:"header"`
	}
	err := c.callEtcd(ctx, "/v3/maintenance/status", struct{}{}, &status)
	revision, perr := strconv.Atoi(status.Header.Revision)
	if err == nil && perr == nil {
		err = c.callEtcd(ctx, "/v3/kv/compaction", map[string]any{"revision": revision, "physical": true}, &struct{}{})
	}
	if err := errors.Join(err, perr); err != nil {
		tb.Fatalf("compact etcd: %v", err)
	}
	c.Restart(tb)
}

// callEtcd sends one request to etcd's JSON gateway.
func (c *Cluster) callEtcd(ctx context.Context, path string, question, answer any) error {
	b, err := json.Marshal(question)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.etcdURL+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	const most = 1 << 20
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return json.Unmarshal(body, answer)
}

// CredentialFiles writes a kubeconfig of the administrator for addr that refers to files with the token and with the
// certificate authority, as they are mounted into a pod. renew writes the current token and authority into both files.
func (c *Cluster) CredentialFiles(tb testing.TB, addr string) (kubeconfig string, renew func()) {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name string, b []byte) {
		path := dir + "/" + name
		if err := errors.Join(os.WriteFile(path+".new", b, 0o600), os.Rename(path+".new", path)); err != nil {
			tb.Fatal(err)
		}
	}
	renew = func() {
		write("token", []byte(c.Token()))
		write("ca.crt", c.CA())
	}
	renew()
	write("kubeconfig", fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://%s", certificate-authority: ca.crt}}]
users: [{name: u, user: {tokenFile: token}}]
`, addr))
	return dir + "/kubeconfig", renew
}
