package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// state is what exists because of pods. It is recorded before, while and after the pod is attached. What is found while
// the pod is attached shows that the search works.
type state struct {
	pod          map[string]string // MAC addresses of interfaces by name
	node         map[string]string
	ports        []string // of the node's bridges
	bridges      []string
	reservations []string // files of host-local
	ledger       []string
	results      []string // files that libcni caches for the runtime and for multus-shim
}

func (d *demo) look() (*state, error) {
	s := &state{node: map[string]string{}, pod: map[string]string{}}
	node, err := links(d.node)
	if err != nil {
		return nil, err
	}
	for name, l := range node {
		s.node[name] = l.Attrs().HardwareAddr.String()
		if l.Type() == "bridge" {
			s.bridges = append(s.bridges, name)
		}
		if l.Attrs().MasterIndex != 0 {
			s.ports = append(s.ports, name)
		}
	}
	pod, err := links(d.sandbox.Handle)
	if err != nil {
		return nil, err
	}
	for name, l := range pod {
		s.pod[name] = l.Attrs().HardwareAddr.String()
	}
	if s.reservations, err = reservations(reserved); err != nil {
		return nil, err
	}
	if s.ledger, err = entries(ledgerDir); err != nil {
		return nil, err
	}
	for _, dir := range []string{runtimeCache, ledgerDir} {
		found, err := entries(filepath.Join(dir, "results"))
		if err != nil {
			return nil, err
		}
		s.results = append(s.results, found...)
	}
	return s, nil
}

// reservations returns host-local's reservations: a directory for each network, with a file for each address.
func reservations(dir string) ([]string, error) {
	networks, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var found []string
	for _, n := range networks {
		files, err := os.ReadDir(filepath.Join(dir, n.Name()))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if _, err := netip.ParseAddr(f.Name()); err == nil { // the directory also has a lock and the last assigned address
				found = append(found, f.Name())
			}
		}
	}
	return found, nil
}

// entries returns the regular files of a directory that are not hidden.
func entries(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var found []string
	for _, e := range list {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// held describes what the node keeps while the pod is attached.
func (s *state) held() ([]string, error) {
	if len(s.reservations) == 0 || len(s.ledger) == 0 || len(s.results) == 0 || len(s.ports) == 0 {
		return nil, fmt.Errorf("with a pod attached, none of these may be empty: reservations %q, ledger entries %q, "+
			"results %q, bridge ports %q",
			s.reservations, s.ledger, s.results, s.ports)
	}
	return []string{
		fmt.Sprintf("%d address reservations in %s: %s", len(s.reservations), reserved, strings.Join(s.reservations, " ")),
		fmt.Sprintf("%d ledger entry in %s: %s", len(s.ledger), ledgerDir, s.ledger[0]),
		fmt.Sprintf("%d results, kept by libcni below %s", len(s.results), runtimeCache),
	}, nil
}

// prove compares the state with that before the pod. Bridges may stay, because the bridge plugin never removes them.
func (d *demo) prove(context.Context) ([]string, error) {
	now, err := d.look()
	if err != nil {
		return nil, err
	}
	if err := now.sameAs(d.before); err != nil {
		return nil, err
	}
	remarks := []string{
		"pod: no interface but " + strings.Join(slices.Sorted(maps.Keys(now.pod)), ", "),
		fmt.Sprintf("node: %s as before, the NIC eth1 is back, MAC address %s",
			strings.Join(slices.Sorted(maps.Keys(d.before.node)), ", "), now.node["eth1"]),
	}
	if len(now.bridges) > 0 {
		remarks = append(remarks, fmt.Sprintf("node: bridge %s without ports (the bridge plugin leaves it for the next pod)",
			strings.Join(now.bridges, ", ")))
	}
	return append(remarks, "no address reservation, no ledger entry, no result of libcni"), nil
}

// sameAs returns an error for each difference except new bridges.
func (s *state) sameAs(before *state) error {
	var errs []error
	for name, mac := range before.node {
		if have, ok := s.node[name]; !ok || have != mac {
			errs = append(errs, fmt.Errorf("node: %s with MAC address %s is missing", name, mac))
		}
	}
	for name := range s.node {
		if _, ok := before.node[name]; !ok && !slices.Contains(s.bridges, name) {
			errs = append(errs, fmt.Errorf("node: interface %s is left", name))
		}
	}
	if !maps.Equal(s.pod, before.pod) {
		errs = append(errs, fmt.Errorf("pod: interfaces %v, before %v", s.pod, before.pod))
	}
	for what, left := range map[string][]string{
		"bridge ports": s.ports, "address reservations": s.reservations, "ledger entries": s.ledger,
		"results of libcni": s.results,
	} {
		if len(left) > 0 {
			errs = append(errs, fmt.Errorf("%s are left: %q", what, left))
		}
	}
	return errors.Join(errs...)
}
