package kube

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const validKubeconfig = `apiVersion: v1
kind: Config
current-context: multus-context
contexts:
- name: other
  context: {cluster: far, user: u}
- name: multus-context
  context: {cluster: local, user: u}
clusters:
- name: far
  cluster: {server: "https://far.example:6443"}
- name: local
  cluster: {server: "https://192.0.2.1:6443", certificate-authority: ca.crt}
users:
- name: u
  user: {tokenFile: token}
`

func write(tb testing.TB, path, content string) string {
	tb.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// TestLoad checks which credentials are used, and the limits and the user agent of the client (behaviour A40, A43,
// F42).
func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kubeconfig := write(t, filepath.Join(dir, "multus.kubeconfig"), validKubeconfig)
	write(t, filepath.Join(dir, "ca.crt"), "c")
	write(t, filepath.Join(dir, "token"), "t")
	account := filepath.Join(dir, "account")
	if err := os.Mkdir(account, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(account, "token"), "t")
	write(t, filepath.Join(account, "ca.crt"), "c")

	tests := []struct {
		name      string
		options   Options
		host      string
		tokenFile string
		caFile    string
	}{
		{
			"kubeconfig, current context",
			Options{Kubeconfig: kubeconfig},
			"https://192.0.2.1:6443",
			filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt"),
		},
		{
			"kubeconfig wins over the service (A40)",
			Options{Kubeconfig: kubeconfig, ServiceHost: "10.96.0.1", ServicePort: "443", ServiceAccountDir: account},
			"https://192.0.2.1:6443", filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt"),
		},
		{
			"in-cluster",
			Options{ServiceHost: "10.96.0.1", ServicePort: "443", ServiceAccountDir: account},
			"https://10.96.0.1:443", filepath.Join(account, "token"), filepath.Join(account, "ca.crt"),
		},
		{
			"in-cluster IPv6",
			Options{ServiceHost: "2001:db8::1", ServicePort: "443", ServiceAccountDir: account},
			"https://[2001:db8::1]:443", filepath.Join(account, "token"), filepath.Join(account, "ca.crt"),
		},
		{
			"in-cluster IPv6 in brackets",
			Options{ServiceHost: "[2001:db8::1]", ServicePort: "443", ServiceAccountDir: account},
			"https://[2001:db8::1]:443", filepath.Join(account, "token"), filepath.Join(account, "ca.crt"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.options.Version = "1.2.3"
			c, err := Load(tt.options)
			if err != nil {
				t.Fatal(err)
			}
			if c.Host != tt.host || c.BearerTokenFile != tt.tokenFile || c.CAFile != tt.caFile {
				t.Errorf("host, token, CA = %q, %q, %q, want %q, %q, %q", c.Host, c.BearerTokenFile, c.CAFile, tt.host,
					tt.tokenFile, tt.caFile)
			}
			if c.QPS != 50 || c.Burst != 50 || c.Timeout.Seconds() != 60 || c.UserAgent != "multus/1.2.3" {
				t.Errorf("settings = %v, %v, %v, %q; want those of behaviour A43", c.QPS, c.Burst, c.Timeout, c.UserAgent)
			}
		})
	}
}

// TestLoadErrors checks that errors name what is missing, and what to do (behaviour A41, A42).
func TestLoadErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string { return write(t, filepath.Join(dir, name), content) }
	tests := []struct {
		name    string
		options Options
		want    []string // parts of the message: what, which, next step
	}{
		{
			"missing file",
			Options{Kubeconfig: filepath.Join(dir, "none")},
			[]string{
				filepath.Join(dir, "none"), "no such file",
				"; correct the file, or name another one (--kubeconfig, KUBECONFIG, or the key kubeconfig of the Multus " +
					"configuration)",
			},
		},
		{
			"a missing file does not fall back to the service",
			Options{Kubeconfig: filepath.Join(dir, "none"), ServiceHost: "h", ServicePort: "1"},
			[]string{"no such file"},
		},
		{"not YAML", Options{Kubeconfig: file("bad", "{")}, []string{filepath.Join(dir, "bad"), "correct the file"}},
		{"empty", Options{Kubeconfig: file("empty", "")}, []string{"current-context is not set"}},
		{
			"context missing",
			Options{Kubeconfig: file("ctx",
				strings.Replace(validKubeconfig, "current-context: multus-context", "current-context: gone", 1))},
			[]string{`current-context "gone"`},
		},
		{"cluster missing", Options{Kubeconfig: file("cluster",
			strings.Replace(validKubeconfig, "cluster: local", "cluster: gone", 1))}, []string{`cluster "gone"`}},
		{
			"no token",
			Options{ServiceHost: "h", ServicePort: "1", ServiceAccountDir: dir},
			[]string{filepath.Join(dir, "token"), "mount the service account token"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(tt.options)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not contain %q", err, part)
				}
			}
		})
	}
}

func TestLoadWithoutCluster(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{}, {ServiceHost: "h"}, {ServicePort: "1"}} {
		if _, err := Load(o); !errors.Is(err, ErrNoCluster) {
			t.Errorf("Load(%+v) = %v, want ErrNoCluster", o, err)
		}
	}
}
