// fakeplugin is a CNI plugin for tests. It appends a line of JSON for each call to a log, and behaves as the "fake"
// object of its configuration says. It can be installed under any name, which it records with each call. Unlike the
// reference plugins it needs no kernel feature, and it can fail, hang and crash on demand.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// behaviour is the "fake" object.
type behaviour struct {
	// Log is the file to which calls are appended.
	Log string `json:"log"`
	// Result is printed on ADD, with "{ifname}" and "{netns}" replaced. If it is empty, nothing is printed.
	Result json.RawMessage `json:"result"`
	// Fail maps a verb to the error that the plugin returns.
	Fail map[string]*types.Error `json:"fail"`
	// Sleep maps a verb to the duration of the call.
	Sleep map[string]string `json:"sleep"`
	// Meet maps a verb to the meeting at which the call waits for others.
	Meet map[string]meeting `json:"meet"`
	// Crash lists the verbs at which the plugin kills itself.
	Crash []string `json:"crash"`
}

// meeting is a barrier: Size calls wait for each other in Dir.
type meeting struct {
	Dir  string `json:"dir"`
	Size int    `json:"size"`
	// Wait is how long a call waits for the others before it fails. Default: a minute.
	Wait string `json:"wait"`
}

func (m meeting) attend() error {
	if m.Dir == "" {
		return nil
	}
	limit, err := time.ParseDuration(cmp.Or(m.Wait, "1m"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.Dir, os.Getenv("CNI_IFNAME")), nil, 0o600); err != nil {
		return err
	}
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		there, err := os.ReadDir(m.Dir)
		if err != nil || len(there) >= m.Size {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d came to %s", len(there), m.Size, m.Dir)
		}
	}
}

// Call is one line of the log.
type Call struct {
	Plugin  string            `json:"plugin"`
	Command string            `json:"command"`
	Env     map[string]string `json:"env"`
	Stdin   json.RawMessage   `json:"stdin"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	verb := os.Getenv("CNI_COMMAND")
	if verb == "VERSION" {
		fmt.Println(`{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}`)
		return nil
	}
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var conf struct {
		Fake behaviour `json:"fake"`
	}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return err
	}
	if err := record(conf.Fake.Log, verb, stdin); err != nil {
		return err
	}
	return conf.Fake.act(verb)
}

func record(path, verb string, stdin []byte) error {
	if path == "" {
		return nil
	}
	call := Call{Plugin: filepath.Base(os.Args[0]), Command: verb, Env: map[string]string{}, Stdin: stdin}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "CNI_") {
			call.Env[k] = v
		}
	}
	b, err := json.Marshal(call)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(b, '\n')) // one write, so that lines of parallel calls do not mix
	return err
}

func (b *behaviour) act(verb string) error {
	if d, err := time.ParseDuration(b.Sleep[verb]); err == nil {
		time.Sleep(d)
	}
	if err := b.Meet[verb].attend(); err != nil {
		return err
	}
	if slices.Contains(b.Crash, verb) {
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if e := b.Fail[verb]; e != nil {
		_ = e.Print()
		os.Exit(1)
	}
	if verb == "ADD" && len(b.Result) > 0 {
		fmt.Println(strings.NewReplacer("{ifname}", os.Getenv("CNI_IFNAME"), "{netns}",
			os.Getenv("CNI_NETNS")).Replace(string(b.Result)))
	}
	return nil
}
