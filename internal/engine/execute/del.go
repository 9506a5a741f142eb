package execute

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"multus/internal/engine/ledger"
	"multus/internal/engine/request"
)

// oldest replaces an invalid cniVersion of a recorded network at DEL. A plugin that accepted the invalid version at ADD
// either supports this version or does not check versions.
const oldest = "0.3.1"

// Del detaches one network. It runs DEL of every plugin of the list that may hold something, in reverse order, whatever
// the others return. libcni alone stops at the first error, so that the remaining plugins keep what they hold. Del
// returns nil only if nothing can remain. A plugin whose binary is missing is an error (behaviour K5). A plugin that
// refuses the version of the configuration is not an error, because it refused the version at ADD, too. It is an error
// if the whole list was attached, or if the interface exists.
func (r *Runner) Del(ctx context.Context, of *ledger.Record, a *ledger.Attachment) error {
	list, rt, err := r.prepare(of, a)
	if err != nil {
		return err
	}
	if _, _, _, err := version.ParseVersion(list.CNIVersion); err != nil {
		list.CNIVersion = oldest // libcni calls no plugin for an invalid version, and the pod could never be deleted
	}
	cached, err := r.cni.GetNetworkListCachedResult(list, rt)
	added := err != nil || cached != nil // a result that cannot be read counts as well
	refused, err := r.delList(ctx, list, rt, added)
	if err == nil && refused == nil || added {
		return err
	}
	if exists, lookErr := HasInterface(of.Netns, a.IfName); exists || lookErr != nil {
		return errors.Join(err, refused, lookErr) // the refusal may be that of a plugin which this one called after its work
	}
	if err == nil {
		return nil
	}
	return &NoTraceError{Err: err}
}

// delList runs DEL of a list. Unless the whole list was attached, it returns refusals of the version separately.
func (r *Runner) delList(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf,
	added bool,
) (refused, err error) {
	missing := r.withoutMissing(list)
	if missing != nil && len(list.Plugins) == 0 {
		return nil, missing
	}
	d := &deletion{left: len(list.Plugins), added: added}
	if missing != nil {
		d.errs = append(d.errs, missing)
	}
	r.exec.del = d
	r.follow(request.Del, list)
	defer func() { r.exec.del = nil }()
	err = r.cni.DelNetworkList(ctx, list, rt)
	if errors.Is(err, errNotAll) {
		err = nil
	}
	return errors.Join(d.refused...), errors.Join(append(d.errs, err)...)
}

// errNotAll is returned to libcni by the last plugin if any plugin of the list has failed, so that libcni keeps its
// cached result.
var errNotAll = errors.New("not everything was deleted")

// deletion is the DEL of one list of plugins.
type deletion struct {
	// left is the number of plugins that have not been executed yet.
	left int
	// added reports whether the whole list was attached.
	added bool
	// refused holds refusals of the version, if the list was not attached completely. errs holds the other failures.
	refused, errs []error
}

// add executes one plugin. It reports success to libcni for all plugins except the last one.
func (d *deletion) add(path string, exec func() ([]byte, error)) ([]byte, error) {
	d.left--
	out, err := exec()
	if err != nil {
		failed := fmt.Errorf("plugin type=%q failed (delete): %w", filepath.Base(path), err)
		if !d.added && isVersionRefusal(err) {
			d.refused = append(d.refused, failed)
		} else {
			d.errs = append(d.errs, failed)
		}
	}
	if d.left == 0 && len(d.errs) > 0 {
		return nil, errNotAll
	}
	if err != nil {
		return nil, nil
	}
	return out, nil
}

// isVersionRefusal reports whether a plugin does not support the version of the configuration.
func isVersionRefusal(err error) bool {
	ce, ok := errors.AsType[*types.Error](err)
	return ok && ce.Code == types.ErrIncompatibleCNIVersion
}

// withoutMissing removes plugins from the list whose binaries cannot be found, and returns an error that names them.
func (r *Runner) withoutMissing(list *libcni.NetworkConfigList) error {
	var errs []error
	list.Plugins = slices.DeleteFunc(list.Plugins, func(p *libcni.PluginConfig) bool {
		_, err := r.exec.FindInPath(p.Network.Type, r.path)
		errs = append(errs, err)
		return err != nil
	})
	return errors.Join(errs...)
}

// NoTraceError is the error of a DEL of an attachment that left no trace: libcni has no result of it, and the sandbox
// has no such interface. ADD did not reach the attachment, failed in it, or was killed in it. Its plugins were called,
// so what they reserved is freed, unless they failed before that. Some plugins, such as host-device, return an error
// for a missing interface at this and at every later DEL. Without this type the runtime could never remove the sandbox
// (multus-cni#669).
type NoTraceError struct{ Err error }

// Error returns the text of the underlying error.
func (e *NoTraceError) Error() string { return e.Err.Error() }

// Unwrap returns the underlying error.
func (e *NoTraceError) Unwrap() error { return e.Err }

// IsFinal reports whether each plugin that failed gave a final reason; see the function IsFinal.
func (e *NoTraceError) IsFinal() bool { return IsFinal(e.Err) }

// Transient reports whether a plugin gives a reason that may pass: it asks to try again later, or names a shortage of
// the node.
func (e *NoTraceError) Transient() bool {
	return some(e.Err, func(err error) bool {
		text, again, ok := answer(err)
		return ok && (again || namesShortage(text))
	})
}

// Killed reports whether a plugin was killed.
func (e *NoTraceError) Killed() bool { return errors.Is(e.Err, errKilled) }

// IsFinal reports whether an error consists only of final reasons that plugins gave themselves: no plugin was killed,
// crashed without a message, is missing, asks to try again later (CNI SPEC 1.1, code 11), or names a shortage of the
// node.
func IsFinal(err error) bool {
	return every(err, func(err error) bool {
		text, again, ok := answer(err)
		return ok && !again && !namesShortage(text)
	})
}

// answer returns the reason that a plugin gave itself, and whether it asks to try again later. ok is false if the error
// is not such a reason.
func answer(err error) (text string, again, ok bool) {
	switch e := err.(type) { //nolint:errorlint // every and some walk the tree
	case *types.Error:
		return e.Msg + " " + e.Details, e.Code == types.ErrTryAgainLater, true
	case *textError:
		return e.text, false, true
	}
	return "", false, false
}

// shortages are errors of a node that temporarily lacks a resource or whose disk fails. They are not related to the
// attachment.
var shortages = []syscall.Errno{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
	syscall.EAGAIN,
}

// namesShortage reports whether a plugin gives a shortage of the node as its reason. The reason is available only as
// text.
func namesShortage(text string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc(shortages, func(e syscall.Errno) bool { return strings.Contains(text, e.Error()) })
}

// IsMissing reports whether a plugin is not installed.
func IsMissing(err error) bool { return errors.Is(err, errMissing) }

// IsRefusal reports whether retrying cannot help: no plugin asks to try again later, and none was killed.
func IsRefusal(err error) bool {
	return !errors.Is(err, errKilled) && !some(err, func(err error) bool {
		ce, ok := err.(*types.Error) //nolint:errorlint // some unwraps
		return ok && ce.Code == types.ErrTryAgainLater
	})
}

// every reports whether each branch of an error's tree has an error for which ok returns true.
func every(err error, ok func(error) bool) bool {
	if ok(err) {
		return true
	}
	wrapped := unwrapped(err)
	return len(wrapped) > 0 && !slices.ContainsFunc(wrapped, func(err error) bool { return !every(err, ok) })
}

// some reports whether ok returns true for any error of the tree.
func some(err error, ok func(error) bool) bool {
	return ok(err) || slices.ContainsFunc(unwrapped(err), func(err error) bool { return some(err, ok) })
}

func unwrapped(err error) []error {
	switch e := err.(type) { //nolint:errorlint // every and some walk the tree themselves
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return []error{inner}
		}
	case interface{ Unwrap() []error }:
		return e.Unwrap()
	}
	return nil
}
