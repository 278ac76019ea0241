// Command build makes everything that is not Go code of this repository: the
// tools tree, the confidential-VM image and the engine and model packs. The
// Makefile calls it; it runs as root because packages are unpacked with their
// owners and mkosi needs its own mounts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fault.Print(os.Stderr, err)
		os.Exit(fault.ExitCode(err))
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == sandboxVerb {
		return enterSandbox(args[1:])
	}
	b, err := newBuilder()
	if err != nil {
		return err
	}
	if len(args) > 0 && args[0] == secondVerb {
		return second(ctx, args[1:])
	}
	verbs := map[string]func(context.Context) error{
		"deps":    b.makeDeps,
		"image":   b.image,
		"packs":   b.packs,
		"clean":   b.clean,
		"lock":    b.lockPackages,
		"release": b.release,
		"rebuild": b.rebuild,

		"reproduce": b.reproduce,
	}
	const usage = "usage: build VERB..., verbs: deps, image, packs, clean, lock, reproduce, release, rebuild"
	if len(args) == 0 {
		return errors.New(usage)
	}
	for _, a := range args {
		if verbs[a] == nil {
			return fmt.Errorf("unknown verb %q; %s", a, usage)
		}
	}
	if os.Geteuid() != 0 {
		return fault.New(fault.ExitNotReady, "build.not_root", "run: sudo make "+args[0], "making %s needs root", args[0])
	}
	name := os.Getenv(envProfile)
	if name == "" {
		name = defaultProfile
	}
	if b.profile, err = b.loadProfile(name); err != nil {
		return err
	}
	// Modes of what is built must not depend on who builds.
	syscall.Umask(0o022)
	unlock, err := b.lockBuild()
	if err != nil {
		return err
	}
	defer unlock()
	for _, a := range args {
		start := time.Now()
		if err := verbs[a](ctx); err != nil {
			return err
		}
		b.say("%s: done in %.1f s", a, time.Since(start).Seconds())
	}
	return nil
}

// builder knows where things are.
type builder struct {
	root  string   // repository
	out   string   // what is built: root/build, or a directory below it for a second build
	deps  string   // what make deps made: root/build
	cache string   // downloads, shareable between clones
	goenv []string // environment of the Go compiler, besides the process's own

	// kept is the directory of a release whose own packages are used instead
	// of what the Debian archive offers today; empty for a build of today.
	kept string

	profile profile

	// Of the second build of make reproduce only.
	again  bool // other surroundings
	tamper bool // a deliberate difference
	lent   bool // the root partition is the first build's
}

func newBuilder() (*builder, error) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		return nil, err
	}
	b := &builder{root: root, out: filepath.Join(root, "build"), deps: filepath.Join(root, "build")}
	b.cache = filepath.Join(b.out, "cache")
	if c := os.Getenv("COCOON_CACHE"); c != "" {
		if !filepath.IsAbs(c) {
			return nil, fault.New(fault.ExitInternal, "build.cache_path", "set COCOON_CACHE to an absolute path", "reading COCOON_CACHE: %q is relative", c)
		}
		b.cache = c
	}
	return b, nil
}

// path returns a path under build/.
func (b *builder) path(elem ...string) string {
	return filepath.Join(append([]string{b.out}, elem...)...)
}

func (b *builder) say(format string, args ...any) {
	fmt.Fprintf(os.Stdout, format+"\n", args...)
}

// lockBuild keeps two builds of one clone, or two clones on one cache, apart.
// The kernel drops the locks when the process ends, however it ends.
func (b *builder) lockBuild() (func(), error) {
	var files []*os.File
	release := func() {
		for _, f := range files {
			f.Close()
		}
	}
	for _, dir := range []string{b.out, b.cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			release()
			return nil, fmt.Errorf("creating %s: %w", dir, err)
		}
		f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			release()
			return nil, fmt.Errorf("opening the build lock: %w", err)
		}
		files = append(files, f)
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			b.say("another build holds %s; waiting for it", f.Name())
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
				release()
				return nil, fmt.Errorf("taking the build lock: %w", err)
			}
		}
	}
	return release, nil
}
