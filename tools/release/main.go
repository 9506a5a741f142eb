// Command release makes the files of a release, from a commit and not from the working tree: the image of every
// architecture with a list of what is in it, the plugin of kubectl, the manifests, the chart, checksums and a statement
// of provenance. Two runs on the same commit write the same bytes.
//
// It publishes nothing. The Makefile calls it; docs/release.md describes the files. No other package may import it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// options are the options of a run.
type options struct {
	root    string // directory of the working tree, whose HEAD is released
	out     string // directory for the files
	version string
	image   string // repository of the image, without a tag
	source  string // URL of the repository, for labels and for the places of downloads
	builder string // URI of the builder, for the provenance
	helm    string // program that packs the chart
	sign    string // command that signs a file
	arches  []string
	epoch   string // SOURCE_DATE_EPOCH, or "" for the time of the commit
}

// release is one run.
type release struct {
	options
	stdout   io.Writer
	work     string // temporary directory beside out
	stage    string // directory in it for the files, until all of them are there
	src      string // clone of the commit
	revision string
	time     time.Time
	digest   string // of the image index
	plugins  []pluginArchive
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH"), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, epoch string, stdout io.Writer) (err error) {
	o, err := parse(args, epoch)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(o.out), ".release-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	r := &release{
		options: o, stdout: stdout, work: work, src: filepath.Join(work, "src"), stage: filepath.Join(work, "out"),
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"checking out the commit", r.checkOut},
		{"building the image", r.buildImage},
		{"starting the plugin of each architecture", r.startPlugins},
		{"listing the modules of each image", r.writeBOMs},
		{"building the plugin of kubectl", r.buildPlugins},
		{"rendering the manifests", r.renderManifests},
		{"packing the chart", r.packChart},
		{"writing krew's manifest", r.writeKrew},
		{"writing the provenance and the checksums", r.writeSums},
		{"signing", r.signFiles},
		{"putting the files into place", r.place},
	} {
		start := time.Now()
		fmt.Fprintln(stdout, step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Fprintf(stdout, "  %.0f s\n", time.Since(start).Seconds())
	}
	fmt.Fprintf(stdout, "%s of commit %s is in %s\nimage %s@%s\n", r.version, r.revision, r.out, r.imageRef(), r.digest)
	return nil
}

// versions are those that Go stamps into a module whose path has no /v2.
var versions = regexp.MustCompile(`^v[01]\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$`)

func parse(args []string, epoch string) (options, error) {
	o := options{epoch: epoch}
	var arches string
	fs := flag.NewFlagSet("release", flag.ContinueOnError)
	fs.StringVar(&o.root, "C", ".", "`directory` of the working tree, whose HEAD is released")
	fs.StringVar(&o.out, "out", "dist/release", "`directory` for the files; a former release there is removed")
	fs.StringVar(&o.version, "version", "", "version, as v1.2.3")
	fs.StringVar(&o.image, "image", "localhost/multus", "`repository` of the image; the version is its tag")
	fs.StringVar(&o.source, "source", "", "`URL` of the repository; downloads are at URL/releases/download/VERSION")
	fs.StringVar(&o.builder, "builder", "urn:multus:builder:local", "`URI` of the builder, for the provenance")
	fs.StringVar(&o.helm, "helm", "bin/tools/helm", "`program` that packs the chart")
	fs.StringVar(&o.sign, "sign", "", "`command` that is called with the name of each file to sign")
	fs.StringVar(&arches, "arch", "amd64,arm64,arm/v7,ppc64le,s390x,riscv64", "architectures of the image")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.arches = strings.Split(arches, ",")
	o.source = strings.TrimSuffix(strings.TrimSuffix(o.source, "/"), ".git")
	if !versions.MatchString(o.version) {
		return o, fmt.Errorf("version %q: want v0.1.2, v1.2.3 or v1.2.3-rc.1: make release VERSION=v1.2.3", o.version)
	}
	if at := strings.LastIndex(o.image, "/"); at < 0 || strings.Contains(o.image[at:], ":") {
		return o, fmt.Errorf("image %q: want a repository with its registry and without a tag: registry.example/multus",
			o.image)
	}
	if epoch != "" {
		if _, err := strconv.ParseInt(epoch, 10, 64); err != nil {
			return o, fmt.Errorf("read SOURCE_DATE_EPOCH: %w", err)
		}
	}
	var errs []error
	for _, path := range []*string{&o.root, &o.out, &o.helm} {
		var err error
		*path, err = filepath.Abs(*path)
		errs = append(errs, err)
	}
	return o, errors.Join(errs...)
}

// imageRef returns the name of the image.
func (r *release) imageRef() string { return r.image + ":" + r.version }

// file returns the path of a file of the release.
func (r *release) file(name string) string { return filepath.Join(r.stage, name) }
