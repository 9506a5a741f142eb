package entrypoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"

	"multus/internal/agent/cniconfig"
	"multus/internal/host/install"
)

// Run installs and configures the plugin as the flags require, and keeps the configuration and the credentials up to
// date until ctx ends (behaviour G20-G22). Credentials are always kept up to date, because with an expired token no pod
// of the node can start (multus-cni#852).
func Run(ctx context.Context, o *Options) error {
	if err := o.check(); err != nil {
		return err
	}
	if !o.SkipBinaryCopy {
		if err := o.install(ctx); err != nil {
			return err
		}
	}
	if _, err := o.credentials(); err != nil {
		return err
	}
	o.logf("kubeconfig file is created.")
	learned, stop := o.watchNode(ctx)
	defer stop()
	w, err := o.watch()
	if err != nil {
		return err
	}
	defer w.Close()
	// The watch has begun before, so that no change is missed.
	path, err := o.writeConf()
	if err != nil {
		return err
	}
	switch {
	case o.ConfFile != auto:
		o.logf("multus config file %s is copied.", path)
	default:
		o.logf("multus config file is created.")
	}
	if err := o.rename(); err != nil {
		return err
	}
	err = o.follow(ctx, w, learned)
	if o.CleanupOnExit {
		err = errors.Join(err, o.cleanUp())
	}
	return err
}

func (o *Options) install(ctx context.Context) error {
	return install.Install(ctx, install.Options{
		Source: filepath.Dir(o.BinFile), Dest: o.BinDir,
		Names: []string{filepath.Base(o.BinFile)},
	})
}

// rename renames the cluster network's file, so that the runtime does not load it (behaviour G25).
func (o *Options) rename() error {
	if !o.RenameConfFile || o.ConfFile != auto {
		return nil
	}
	p, err := cniconfig.Choose(o.AutoconfigDir, o.MasterFileName)
	if err != nil {
		return fmt.Errorf("rename the cluster network's file: %w", err)
	}
	if err := os.Rename(p.File, p.File+".old"); err != nil {
		return fmt.Errorf("rename the cluster network's file: %w", err)
	}
	return nil
}

func (o *Options) watch() (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	dirs := []string{o.ServiceAccountDir}
	if o.follows() {
		dirs = append(dirs, o.AutoconfigDir)
	}
	for _, d := range dirs {
		if err := w.Add(d); err != nil {
			return nil, errors.Join(fmt.Errorf("watch %s: %w", d, err), w.Close())
		}
	}
	return w, nil
}

// follows reports whether the cluster network's file is followed. It is not if the file was renamed.
func (o *Options) follows() bool {
	return o.ConfFile == auto && !o.SkipConfigWatch && !o.RenameConfFile
}

// follow updates the files after each change. After an error it logs, keeps the last good files, and waits for the next
// change.
func (o *Options) follow(ctx context.Context, w *fsnotify.Watcher, learned <-chan cniconfig.Facts) error {
	o.logf("Entering watch loop...")
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-learned:
			o.facts = &f
		case err := <-w.Errors:
			// Events were lost: check all files.
			o.logf("watch: %v", err)
		case _, ok := <-w.Events:
			if !ok {
				return errors.New("the watch has ended")
			}
		}
		changed, err := o.credentials()
		if changed {
			o.logf("CA or SA token changed - recreated kubeconfig")
		}
		o.logError(err)
		if !o.follows() {
			continue
		}
		path, err := o.writeConf()
		if path != "" {
			o.logf("master config changed - recreated multus config %s", path)
		}
		o.logError(err)
	}
}

func (o *Options) logError(err error) {
	if err != nil {
		o.logf("%v; keeping the existing files", err)
	}
}

func (o *Options) logf(format string, args ...any) { fmt.Fprintf(o.Stdout, format+"\n", args...) }
