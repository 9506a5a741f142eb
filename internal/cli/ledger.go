package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"multus/internal/config"
	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
	"multus/internal/link"
)

// record is a record of the ledger, as it is printed.
type record struct {
	Container string `json:"container"`
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	UID       string `json:"uid,omitempty"`
	Netns     string `json:"netns,omitempty"`
	// State is "attached", "gone" (the network namespace no longer exists), or "unknown" (records of today's Multus do not
	// have its path).
	State string `json:"state"`
	// Problem is the error of reading the record, or "".
	Problem     string             `json:"problem,omitempty"`
	Attachments []recordAttachment `json:"attachments"`
}

type recordAttachment struct {
	Network       string                     `json:"network"`
	IfName        string                     `json:"interface"`
	Plugins       []string                   `json:"plugins"`
	Device        string                     `json:"device,omitempty"`
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig,omitempty"`
	Config        json.RawMessage            `json:"config"`
}

// The states of a record.
const (
	stateAttached = "attached"
	stateGone     = "gone"
	stateUnknown  = "unknown"
)

func (a *app) ledgerCommand() *cobra.Command {
	var dir string
	c := group(
		&cobra.Command{Use: "ledger", Short: "Inspect the records of what is attached on this node"},
		a.ledgerList(&dir), a.ledgerShow(&dir), a.ledgerVerify(&dir),
	)
	c.PersistentFlags().StringVar(&dir, "state-dir", config.DefaultCNIDir,
		"the state `directory`, cniDir of the CNI configuration")
	return c
}

func (a *app) ledgerList(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the sandboxes",
		RunE: func(*cobra.Command, []string) error {
			records, err := readLedger(*dir)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"records": records}, func(w io.Writer) {
				rows := [][]string{{"CONTAINER", "POD", "STATE", "NETWORKS"}}
				for _, r := range records {
					rows = append(rows, []string{short(r.Container), r.name(), r.State, r.networks()})
				}
				columns(w, rows...)
			})
		},
	}
}

func (a *app) ledgerShow(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "show CONTAINER",
		Short: "Show one sandbox: what DEL will do",
		Long:  "Show what DEL will replay for one sandbox. Give its container ID, a prefix of it, or NAMESPACE/NAME.",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			records, err := readLedger(*dir)
			if err != nil {
				return err
			}
			found := slices.DeleteFunc(records, func(r record) bool {
				return !strings.HasPrefix(r.Container, args[0]) && r.name() != args[0]
			})
			if len(found) == 0 {
				return fmt.Errorf("no record of %q in %s; see multusctl ledger ls", args[0], *dir)
			}
			return a.print(map[string]any{"records": found}, func(w io.Writer) {
				for _, r := range found {
					a.writeRecord(w, r)
				}
			})
		},
	}
}

func (a *app) writeRecord(w io.Writer, r record) {
	fmt.Fprintln(w, a.paint(bold, "container "+r.Container))
	columns(w, []string{"  pod", dash(r.name()), dash(r.UID)}, []string{"  netns", dash(r.Netns), r.State})
	if r.Problem != "" {
		fmt.Fprintf(w, "  %s %s\n", a.paint(red, "problem:"), r.Problem)
	}
	for i, t := range r.Attachments {
		fmt.Fprintf(w, "  %d. %s: %s (%s)\n     %s\n", i+1, t.IfName, t.Network, strings.Join(t.Plugins, ", "),
			indented(t.Config))
		for _, key := range slices.Sorted(maps.Keys(t.RuntimeConfig)) {
			fmt.Fprintf(w, "     runtimeConfig.%s = %s\n", key, t.RuntimeConfig[key])
		}
	}
}

func (a *app) ledgerVerify(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Check that every record can be replayed and belongs to a sandbox",
		RunE: func(*cobra.Command, []string) error {
			records, err := readLedger(*dir)
			if err != nil {
				return err
			}
			store := &ledger.Store{Dir: *dir, Log: slog.New(slog.DiscardHandler)}
			damaged, err := store.Damaged()
			if err != nil {
				return err
			}
			abandoned, err := store.Abandoned()
			if err != nil {
				return err
			}
			problems := append(verify(records, damaged), givenUp(abandoned)...)
			err = a.print(map[string]any{"records": len(records), "problems": problems}, func(w io.Writer) {
				for _, p := range problems {
					fmt.Fprintf(w, "%s: %s\n    %s\n", p.Container, p.Problem, p.Fix)
				}
				fmt.Fprintf(w, "%d %s, %d %s\n", len(records), plural(len(records), "record"), len(problems),
					plural(len(problems), "problem"))
			})
			if err == nil && len(problems) > 0 {
				err = errFound
			}
			return err
		},
	}
}

// ledgerProblem is a problem that verify found.
type ledgerProblem struct {
	Container string `json:"container"`
	Problem   string `json:"problem"`
	Fix       string `json:"fix"`
}

func verify(records []record, damaged []string) []ledgerProblem {
	out := []ledgerProblem{}
	for _, r := range records {
		if r.Problem != "" {
			out = append(out, ledgerProblem{
				r.Container, r.Problem,
				"nothing: DEL moves the file aside and uses the cached results of libcni",
			})
		}
		if r.State == stateGone {
			out = append(out, ledgerProblem{
				r.Container, "the network namespace " + r.Netns + " is gone",
				"nothing, if the pod is being deleted; else the runtime's GC frees it, see multusctl gc --dry-run",
			})
		}
	}
	for _, d := range damaged {
		out = append(out, ledgerProblem{
			d, "a damaged record was put aside",
			"look for reservations of that container, then remove the file from the directory damaged",
		})
	}
	return out
}

// givenUp returns the attachments that DEL has given up. Resources of their plugins may be left.
func givenUp(abandoned []*ledger.Abandoned) []ledgerProblem {
	var out []ledgerProblem
	for _, n := range abandoned {
		of := "the plugins (" + strings.Join(n.Plugins, ", ") + ")"
		if len(n.IPAM) > 0 {
			of += " and the addresses of IPAM " + strings.Join(n.IPAM, ", ")
		}
		out = append(out, ledgerProblem{
			n.ContainerID, fmt.Sprintf("network %s (interface %s) of pod %s was given up at %s: its plugins refuse DEL: %s",
				n.Network, n.IfName, dash(n.Pod), n.Time.Format(time.RFC3339), n.Reason),
			"look for what " + of + " may still hold for this container, then remove " + n.File,
		})
	}
	return out
}

// readLedger reads all records of a state directory, in the order of their containers.
func readLedger(dir string) ([]record, error) {
	store := &ledger.Store{Dir: dir, Log: slog.New(slog.DiscardHandler)}
	ids, err := store.Containers()
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	out := []record{}
	for _, id := range ids {
		r, err := lookUp(store, id, ledger.DefaultIfName)
		out = append(out, newRecord(id, r, err))
	}
	return out, nil
}

// lookUp returns the record of a container, or nil. It changes nothing, even if the record is damaged. It then returns
// the readable part and an error.
func lookUp(store *ledger.Store, id, ifName string) (*ledger.Record, error) {
	r, err := store.Inspect(id, ifName)
	if r == nil && err == nil {
		return store.Read(id, ifName) // only libcni has a cached result
	}
	return r, err
}

func newRecord(id string, r *ledger.Record, err error) record {
	out := record{Container: id, State: stateUnknown, Attachments: []recordAttachment{}}
	if err != nil {
		out.Problem = err.Error()
	}
	if r == nil {
		return out
	}
	out.Netns = r.Netns
	if r.Netns != "" {
		out.State = netnsState(r.Netns)
	}
	for i := range r.Attachments {
		t := &r.Attachments[i]
		out.Attachments = append(out.Attachments, newAttachment(t))
		if v := t.Args.Get(request.PodName); v != "" {
			out.Namespace, out.Pod, out.UID = t.Args.Get(request.PodNamespace), v, t.Args.Get(request.PodUID)
		}
	}
	return out
}

func newAttachment(t *ledger.Attachment) recordAttachment {
	return recordAttachment{
		Network: t.Name, IfName: t.IfName, Plugins: t.Config.Types(), Device: t.DeviceID,
		RuntimeConfig: t.RuntimeConfig, Config: t.Config.Bytes(),
	}
}

// netnsState returns the state of a network namespace.
func netnsState(netns string) string {
	ns, err := link.Open(netns)
	switch {
	case errors.Is(err, link.ErrNoNamespace):
		return stateGone
	case err != nil:
		return stateUnknown
	}
	_ = ns.Close() // nothing was written
	return stateAttached
}

func (r record) name() string {
	if r.Pod == "" {
		return "-"
	}
	return r.Namespace + "/" + r.Pod
}

func (r record) networks() string {
	var out []string
	for _, t := range r.Attachments {
		out = append(out, t.IfName+"="+t.Network)
	}
	return dash(strings.Join(out, ","))
}

// short returns the abbreviated form of a container ID.
func short(id string) string {
	const most = 13
	if len(id) > most {
		return id[:most]
	}
	return id
}
