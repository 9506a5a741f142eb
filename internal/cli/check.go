package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"multus/internal/engine/ledger"
	"multus/internal/engine/plan"
	"multus/internal/engine/request"
	"multus/internal/fault"
)

// checked has the printed results of CHECK for one sandbox.
type checked struct {
	Pod       string          `json:"pod"`
	Container string          `json:"container"`
	Networks  []checkedAnswer `json:"networks"`
}

type checkedAnswer struct {
	Network   string `json:"network"`
	Interface string `json:"interface"`
	// Answer is "ok", "failed" or "not asked". The last one means that the cniVersion is older than CHECK, or that the
	// configuration disables it.
	Answer string `json:"answer"`
	// Error is the error of the plugin if it failed.
	Error string `json:"error,omitempty"`
}

// The values of checkedAnswer.Answer.
const (
	answerOK     = "ok"
	answerNotRun = "not asked"
	answerFailed = "failed"
)

func (a *app) checkCommand() *cobra.Command {
	t := &attachment{app: a}
	c := &cobra.Command{
		Use:   "check NAMESPACE/NAME|CONTAINER",
		Short: "Run CHECK for every network of a pod on this node",
		Long: "Run CHECK for every network of a pod on this node and show the results of the plugins. The CHECK of the\n" +
			"runtime calls none of them by default (key checkNetworks): some plugins refuse CHECK behind a meta-plugin\n" +
			"although nothing is wrong. Exit code 1 if one of them fails.",
		Example: "  multusctl check default/web-0",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return t.check(cmd.Context(), args[0]) },
	}
	t.directories(c.Flags())
	return c
}

func (t *attachment) check(ctx context.Context, name string) error {
	records, err := readLedger(t.stateDir)
	if err != nil {
		return err
	}
	found := slices.DeleteFunc(records,
		func(r record) bool { return r.name() != name && !strings.HasPrefix(r.Container, name) })
	if len(found) == 0 {
		return fmt.Errorf("no record of %q in %s; see multusctl ledger ls", name, t.stateDir)
	}
	conf, err := t.configuration()
	if err != nil {
		return err
	}
	out := []checked{}
	for _, r := range found {
		c, err := t.checkOne(ctx, r, conf)
		if err != nil {
			return fault.ForUser(err)
		}
		out = append(out, c)
	}
	if err := t.print(map[string]any{"sandboxes": out}, func(w io.Writer) { t.writeChecked(w, out) }); err != nil {
		return err
	}
	failed := func(a checkedAnswer) bool { return a.Answer == answerFailed }
	if slices.ContainsFunc(out, func(c checked) bool { return slices.ContainsFunc(c.Networks, failed) }) {
		return errFound
	}
	return nil
}

func (t *attachment) checkOne(ctx context.Context, r record, conf []byte) (checked, error) {
	out := checked{Pod: r.name(), Container: r.Container, Networks: []checkedAnswer{}}
	answers, err := t.engine(&plan.Resolver{}).CheckEach(ctx, &request.Request{
		Command: request.Check, ContainerID: r.Container, Netns: r.Netns, IfName: ledger.DefaultIfName, Path: t.pluginDir,
		Config: conf,
	})
	for _, a := range answers {
		c := checkedAnswer{Network: a.Network, Interface: a.IfName, Answer: answerOK}
		switch {
		case a.Err != nil:
			c.Answer, c.Error = answerFailed, a.Err.Error()
		case !a.Called:
			c.Answer = answerNotRun
		}
		out.Networks = append(out.Networks, c)
	}
	return out, err
}

func (t *attachment) writeChecked(w io.Writer, out []checked) {
	rows := [][]string{{"POD", "CONTAINER", "INTERFACE", "NETWORK", "ANSWER"}}
	for _, c := range out {
		for _, n := range c.Networks {
			answer := n.Answer
			if n.Error != "" {
				answer += ": " + n.Error
			}
			rows = append(rows, []string{c.Pod, short(c.Container), n.Interface, n.Network, answer})
		}
	}
	columns(w, rows...)
}
