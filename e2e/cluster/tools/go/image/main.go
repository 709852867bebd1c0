// Command image writes an image archive from files of this machine: no base image, no daemon, no
// registry. The same files give the same bytes: no times, owners or names of the building machine go in.
//
//	image -o hub.tar -ref selvedge.dev/selvedge-hub:0.1.0 -user 65532 -entrypoint /selvedge-hub build/selvedge-hub=/selvedge-hub
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

type options struct {
	out, ref, arch, user string
	entrypoint, env      list
	links, files         list
}

func main() {
	var o options
	flag.StringVar(&o.out, "o", "", "archive to write (docker archive, as `ctr images import` reads it)")
	flag.StringVar(&o.ref, "ref", "", "name and tag of the image")
	flag.StringVar(&o.arch, "arch", "amd64", "architecture of the binaries, in Go's names")
	flag.StringVar(&o.user, "user", "65532", "numeric user that the entrypoint runs as")
	flag.Var(&o.entrypoint, "entrypoint", "one word of the entrypoint; repeat for more")
	flag.Var(&o.env, "env", "NAME=value; repeat for more")
	flag.Var(&o.links, "link", "/path=target, a symbolic link; repeat for more")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: image -o OUT -ref NAME:TAG [flags] SOURCE=/path ...")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.files = flag.Args()
	if err := write(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(o options) error {
	if o.out == "" || o.ref == "" || len(o.entrypoint) == 0 || len(o.files) == 0 {
		return errors.New("-o, -ref, -entrypoint and at least one SOURCE=/path are needed; see -h")
	}
	tag, err := name.NewTag(o.ref, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("image name %q: %w", o.ref, err)
	}
	content, err := layer(o)
	if err != nil {
		return err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	// The archive goes from one directory of this machine to another: best speed beats small.
	l, err := tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return fmt.Errorf("layer of %s: %w", o.ref, err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return fmt.Errorf("image %s: %w", o.ref, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return fmt.Errorf("configuration of %s: %w", o.ref, err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", o.arch
	config.Created = v1.Time{}
	config.Config = v1.Config{Entrypoint: o.entrypoint, Env: o.env, User: o.user}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return fmt.Errorf("configuration of %s: %w", o.ref, err)
	}
	// Renamed into place, so that an archive that exists is whole.
	if err := tarball.WriteToFile(o.out+".part", tag, image); err != nil {
		return fmt.Errorf("archive %s: %w", o.out, err)
	}
	return os.Rename(o.out+".part", o.out)
}

// layer is the tar of the image's one layer: directories first, then files and links, as given.
func layer(o options) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{".": true}
	add := func(h tar.Header, data []byte) error {
		if err := directories(w, path.Dir(h.Name), made); err != nil {
			return err
		}
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	for _, file := range o.files {
		source, target, err := pair(file)
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		if err := add(tar.Header{Typeflag: tar.TypeReg, Name: inImage(target), Mode: 0o755}, data); err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
	}
	for _, link := range o.links {
		at, target, err := pair(link)
		if err != nil {
			return nil, err
		}
		if err := add(tar.Header{Typeflag: tar.TypeSymlink, Name: inImage(at), Linkname: target, Mode: 0o777}, nil); err != nil {
			return nil, fmt.Errorf("%s: %w", link, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func directories(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := directories(w, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

// pair splits "left=right".
func pair(s string) (string, string, error) {
	left, right, ok := strings.Cut(s, "=")
	if !ok || left == "" || right == "" {
		return "", "", fmt.Errorf("%q is not of the form left=right", s)
	}
	return left, right, nil
}

// inImage is a path of the image as tar wants it: without the leading slash.
func inImage(p string) string { return strings.TrimPrefix(path.Clean(p), "/") }
