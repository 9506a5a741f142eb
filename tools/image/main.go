// Command image writes the container image as archives, from scratch: without a container engine, a base image or a
// registry. Two runs on the same sources write the same bytes.
//
// The Makefile and the Dockerfile call it. No other package may import it.
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
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// options are the options of a run.
type options struct {
	root     string // directory of the module
	out      string // directory of binaries and archives
	arches   []string
	image    string // reference of the image in the archives
	version  string
	revision string
	source   string
	buildVCS string
	rootfs   string // directory for the files of the image, instead of archives
	index    string // file of one archive with the images of all architectures, instead of one of each
	epoch    time.Time
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

func run(ctx context.Context, args []string, epoch string, stdout io.Writer) error {
	o, err := parse(args, epoch)
	if err != nil {
		return err
	}
	var done []string
	var images []v1.Image
	for _, arch := range o.arches {
		fmt.Fprintf(stdout, "building the binaries for %s\n", arch)
		dir := filepath.Join(o.out, "linux-"+fileVersion(arch))
		if err := build(ctx, o, arch, dir); err != nil {
			return err
		}
		if o.rootfs != "" {
			return writeRootfs(o.rootfs, dir)
		}
		fmt.Fprintf(stdout, "packing the image for %s\n", arch)
		img, err := newImage(o, arch, dir)
		if err != nil {
			return err
		}
		if o.index != "" {
			images = append(images, img)
			continue
		}
		path := filepath.Join(o.out, fmt.Sprintf("multus-%s-linux-%s.tar", fileVersion(o.version), fileVersion(arch)))
		if err := writeArchive(path, o.image, img); err != nil {
			return err
		}
		line, err := describe(path, img)
		if err != nil {
			return err
		}
		done = append(done, line)
	}
	if o.index != "" {
		digest, err := writeIndex(o.index, o.image, images)
		if err != nil {
			return err
		}
		done = append(done, fmt.Sprintf("  %s  %s\n", filepath.Base(o.index), digest))
	}
	fmt.Fprintf(stdout, "%s, version %s:\n%s", o.image, o.version, strings.Join(done, ""))
	return nil
}

func parse(args []string, epoch string) (options, error) {
	var o options
	var arches string
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.StringVar(&o.root, "C", ".", "`directory` of the module")
	fs.StringVar(&o.out, "out", "dist", "`directory` for the binaries and the archives")
	fs.StringVar(&arches, "arch", "amd64,arm64", "architectures, separated by commas: amd64, arm64, arm/v7, ...")
	fs.StringVar(&o.image, "image", "localhost/multus:latest",
		"`reference` of the image in the archives, as the manifests name it")
	fs.StringVar(&o.version, "version", "dev", "version, for the label and the file names")
	fs.StringVar(&o.revision, "revision", "", "commit, for the label")
	fs.StringVar(&o.source, "source", "", "`URL` of the sources, for the label")
	fs.StringVar(&o.buildVCS, "buildvcs", "auto", "as of go build")
	fs.StringVar(&o.rootfs, "rootfs", "",
		"write the files of the image into this `directory`, instead of archives (one architecture)")
	fs.StringVar(&o.index, "index", "",
		"write the images of all architectures into this `file`, an OCI layout, instead of one archive of each")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.arches = strings.Split(arches, ",")
	if o.rootfs != "" && len(o.arches) != 1 {
		return o, errors.New("-rootfs is for one architecture: give -arch")
	}
	seconds := int64(0)
	if epoch != "" {
		var err error
		if seconds, err = strconv.ParseInt(epoch, 10, 64); err != nil {
			return o, fmt.Errorf("read SOURCE_DATE_EPOCH: %w", err)
		}
	}
	o.epoch = time.Unix(seconds, 0).UTC()
	var err error
	if o.root, err = filepath.Abs(o.root); err != nil {
		return o, err
	}
	o.out, err = filepath.Abs(o.out)
	return o, err
}

// fileVersion replaces the characters of a version that a file name must not contain.
func fileVersion(v string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("/\\: ", r) {
			return '-'
		}
		return r
	}, v)
}
