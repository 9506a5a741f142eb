package cli

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/cniconf"
	"multus/internal/engine/plan"
)

// networkRow is a network definition, as it is printed.
type networkRow struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Plugins   []string `json:"plugins"`
	// On is the interface of the node that the network uses, or "" if its plugins name none.
	On       string   `json:"on,omitempty"`
	IPAM     string   `json:"ipam,omitempty"`
	Ranges   []string `json:"ranges,omitempty"`
	Resource string   `json:"resource,omitempty"`
	// Problem is the reason why the definition cannot be used. multusctl lint reports its position.
	Problem string `json:"problem,omitempty"`
}

func (a *app) networksCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "networks",
		Aliases: []string{"nets"},
		Short:   "List the network definitions, the node's interfaces that they use, and their address ranges",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open()
			if err != nil {
				return err
			}
			defs, err := s.networks(cmd.Context())
			if err != nil {
				return err
			}
			rows := networkRows(defs)
			return a.print(map[string]any{"networks": rows}, func(w io.Writer) {
				table := [][]string{{"NETWORK", "PLUGINS", "ON", "IPAM", "ADDRESSES", "DEVICE"}}
				for _, r := range rows {
					plugins := strings.Join(r.Plugins, ",")
					if r.Problem != "" {
						plugins = a.paint(red, "invalid: "+r.Problem)
					}
					table = append(table, []string{
						r.Namespace + "/" + r.Name, dash(plugins), dash(r.On), dash(r.IPAM),
						dash(strings.Join(r.Ranges, ",")), dash(r.Resource),
					})
				}
				columns(w, table...)
			})
		},
	}
	a.source.add(c.Flags())
	return c
}

// networkConf is the printed part of a plugin's configuration.
type networkConf struct {
	Master string `json:"master"`
	Bridge string `json:"bridge"`
	Device string `json:"device"`
	IPAM   struct {
		Type      string            `json:"type"`
		Subnet    string            `json:"subnet"`
		Range     string            `json:"range"`
		Ranges    [][]networkSubnet `json:"ranges"`
		Addresses []struct {
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"ipam"`
}

type networkSubnet struct {
	Subnet string `json:"subnet"`
	Start  string `json:"rangeStart"`
	End    string `json:"rangeEnd"`
}

func networkRows(defs []plan.Definition) []networkRow {
	rows := []networkRow{}
	for _, d := range defs {
		row := networkRow{Namespace: d.Namespace, Name: d.Name, Resource: d.ResourceName, Plugins: []string{}}
		if d.Config == "" {
			row.Problem = "spec.config is empty: each node has its own file"
		} else if l, err := cniconf.Parse([]byte(d.Config)); err != nil {
			row.Problem = err.Error()
		} else {
			row.fill(l)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b networkRow) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return rows
}

// fill reads the members that can be decoded, because plugins have keys of any type.
func (r *networkRow) fill(l *cniconf.List) {
	r.Plugins = l.Types()
	for i := range r.Plugins {
		var c networkConf
		_ = l.Decode(i, &c) // a member of another type is ignored; lint reports it
		r.On = cmp.Or(r.On, c.Master, c.Bridge, c.Device)
		r.IPAM = cmp.Or(r.IPAM, c.IPAM.Type)
		for _, s := range []string{c.IPAM.Subnet, c.IPAM.Range} {
			if s != "" {
				r.Ranges = append(r.Ranges, s)
			}
		}
		for _, set := range c.IPAM.Ranges {
			for _, s := range set {
				r.Ranges = append(r.Ranges, s.String())
			}
		}
		for _, addr := range c.IPAM.Addresses {
			r.Ranges = append(r.Ranges, addr.Address)
		}
	}
}

// String returns the subnet and the assigned part of it.
func (s networkSubnet) String() string {
	if s.Start == "" && s.End == "" {
		return s.Subnet
	}
	return s.Subnet + " (" + s.Start + "-" + s.End + ")"
}
