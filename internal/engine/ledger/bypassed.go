package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"multus/internal/cniconf"
	"multus/internal/fsx"
)

// ErrNotBypassed is returned by Bypassed if the runtime has no result of a network that it attached without Multus.
var ErrNotBypassed = errors.New("the container runtime has no result of a network that it attached without Multus")

// Bypassed is a sandbox that the container runtime attached to its cluster network without calling Multus, as the
// runtime's libcni has cached it.
type Bypassed struct {
	// Record has the cluster network alone, with the configuration and the arguments of the runtime's ADD.
	Record *Record
	// name is that of the file with the result, and content the file.
	name    string
	content []byte
}

// cachedFile is a file in which libcni caches a result. libcni does not export the type.
type cachedFile struct {
	Kind           string         `json:"kind"`
	ContainerID    string         `json:"containerId"`
	Config         []byte         `json:"config"`
	IfName         string         `json:"ifName"`
	NetworkName    string         `json:"networkName"`
	NetNS          string         `json:"netns"`
	CNIArgs        [][2]string    `json:"cniArgs"`
	CapabilityArgs map[string]any `json:"capabilityArgs"`
}

// Bypassed reads the result of a container in resultsDir, where the runtime's libcni caches its results. ifName is the
// runtime's name for the interface of the cluster network. Nothing is changed. What is in the directory is untrusted: a
// result with names that libcni cannot have written is an error.
func (s *Store) Bypassed(resultsDir, containerID, ifName string) (*Bypassed, error) {
	if _, err := s.file(containerID); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(resultsDir)
	if err != nil {
		return nil, fmt.Errorf("list the runtime's results: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "-"+containerID+"-"+ifName) {
			continue
		}
		b, err := fsx.ReadRegular(resultsDir, e.Name(), maxEntry)
		if err != nil {
			return nil, fmt.Errorf("read the runtime's result: %w", err)
		}
		var file cachedFile
		if err := json.Unmarshal(b, &file); err != nil {
			return nil, fmt.Errorf("decode the runtime's result %s: %w", e.Name(), err)
		}
		if file.Kind != libcni.CNICacheV1 || file.ContainerID != containerID || file.IfName != ifName ||
			cniconf.CallsMultus(file.Config) {
			continue
		}
		return s.bypassed(&file, b)
	}
	return nil, fmt.Errorf("container %s: %w", containerID, ErrNotBypassed)
}

func (s *Store) bypassed(file *cachedFile, content []byte) (*Bypassed, error) {
	name, err := ResultName(file.NetworkName, file.ContainerID, file.IfName)
	if err != nil {
		return nil, err
	}
	a, err := fromResult(&libcni.NetworkAttachment{
		ContainerID: file.ContainerID, Network: file.NetworkName, IfName: file.IfName, Config: file.Config,
		NetNS: file.NetNS, CniArgs: file.CNIArgs, CapabilityArgs: file.CapabilityArgs,
	}, file.IfName)
	if err != nil {
		return nil, fmt.Errorf("read the runtime's result of network %s: %w", file.NetworkName, err)
	}
	return &Bypassed{name: name, content: content, Record: &Record{
		ContainerID: file.ContainerID, Netns: file.NetNS, BinDir: s.BinDir, Attachments: []Attachment{*a},
	}}, nil
}

// Adopt records a sandbox that the runtime attached without Multus, durably, with a copy of the runtime's result. From
// then on its DEL is the one of any other sandbox.
func (s *Store) Adopt(b *Bypassed) error {
	err := s.dropLinks()
	if err == nil {
		err = os.MkdirAll(ResultsDir(s.Dir), 0o700)
	}
	if err == nil {
		err = fsx.WriteAtomic(filepath.Join(ResultsDir(s.Dir), b.name), b.content, 0o600)
	}
	if err != nil {
		return fmt.Errorf("copy the runtime's result of container %s: %w", b.Record.ContainerID, err)
	}
	return s.Write(b.Record)
}
