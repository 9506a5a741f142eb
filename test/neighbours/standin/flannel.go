package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// addFlannel runs bridge with the subnet of the file and saves the configuration for DEL.
func addFlannel(args *skel.CmdArgs, c *netConf) error {
	b, err := os.ReadFile(c.SubnetFile)
	if err != nil {
		return fmt.Errorf("failed to load flannel 'subnet.env' file: %w", err)
	}
	conf := map[string]any{
		"cniVersion": c.CNIVersion, "name": c.Name, "type": "bridge", "isGateway": true,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": c.IPAMDir(), "subnet": subnet(b),
		},
	}
	maps.Copy(conf, c.Delegate)
	text, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(c.DataDir, 0o700), os.WriteFile(c.file(args), text, 0o600)); err != nil {
		return fmt.Errorf("save configuration of the delegate: %w", err)
	}
	res, err := invoke.DelegateAdd(context.Background(), "bridge", text, nil)
	if err != nil {
		return err
	}
	return types.PrintResult(res, c.CNIVersion)
}

// delFlannel runs DEL with the saved configuration. Without it there is nothing to do.
func delFlannel(args *skel.CmdArgs, c *netConf) error {
	text, err := os.ReadFile(c.file(args))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := invoke.DelegateDel(context.Background(), "bridge", text, nil); err != nil {
		return err
	}
	return os.Remove(c.file(args))
}

func (c *netConf) file(args *skel.CmdArgs) string { return filepath.Join(c.DataDir, args.ContainerID) }

// IPAMDir returns host-local's directory, which the test keeps beside flannel's.
func (c *netConf) IPAMDir() string { return filepath.Join(filepath.Dir(c.DataDir), "ipam") }

// subnet returns the value of FLANNEL_SUBNET.
func subnet(env []byte) string {
	for line := range bytes.Lines(env) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "FLANNEL_SUBNET="); ok {
			return v
		}
	}
	return ""
}
