package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/image/explain"
	"cocoon/image/info"
	"cocoon/internal/fault"
)

// secondVerb is the hidden verb of the process that builds a second time.
const secondVerb = "second"

// Variables of make reproduce.
const (
	envTamper = "REPRODUCE_TAMPER" // 1: the second build gets a deliberate difference
	envSmall  = "REPRODUCE_SMALL"  // 1: the root file system is taken from the first build
)

// The second build's surroundings. Whatever of them reached an artefact would
// change it.
var (
	secondEnv = []string{"TZ=Pacific/Kiritimati", "LC_ALL=C", "LANG=tr_TR.UTF-8", "USER=somebody", "LOGNAME=somebody", "HOME=/nonexistent", "HOSTNAME=elsewhere"}
	// secondTime is given to every source file: a day that no build runs on.
	secondTime = time.Date(2001, 9, 9, 1, 46, 40, 0, time.UTC)
	// secondUser compiles, in a user namespace.
	secondUser = 4242 // never root
)

// reproduce builds image and packs a second time and requires every byte to
// be the same. Different are: the path of sources and outputs, the files'
// times, the clock, time zone, locale, host and user name, the compiling
// user's number, the number of processors and jobs, and all caches but the
// downloaded packages. A difference is explained down to the file in it.
func (b *builder) reproduce(ctx context.Context) error {
	if err := b.image(ctx); err != nil {
		return err
	}
	if err := b.packs(ctx); err != nil {
		return err
	}
	base := b.path("reproduce")
	second := *b
	second.root, second.out = filepath.Join(base, "another path", "src"), filepath.Join(base, "out")
	if err := os.RemoveAll(base); err != nil {
		return fmt.Errorf("preparing the second build: %w", err)
	}
	if err := errors.Join(b.copySources(second.root), os.MkdirAll(second.out, 0o755)); err != nil {
		return fmt.Errorf("preparing the second build: %w", err)
	}
	start := time.Now()
	b.say("reproduce: building a second time in %s", base)
	b.say("reproduce: other paths, file times, time zone, locale, host name, user, caches; 1 job instead of %d; the clock of the tools tree's programs is %d days ahead", runtime.NumCPU(), int(clockAhead.Hours()/24))
	if os.Getenv(envSmall) == "1" {
		b.say("reproduce: %s=1: the root file system's partition is the first build's; everything else is made again", envSmall)
		if err := b.lendPartitions(&second); err != nil {
			return err
		}
	}
	if err := b.runSecond(ctx, &second); err != nil {
		return err
	}
	b.say("reproduce: the second build took %.1f s", time.Since(start).Seconds())
	differ, err := b.compare(ctx, &second)
	if err != nil {
		return err
	}
	if len(differ) > 0 {
		b.say("reproduce: the second build is kept in %s", second.out)
		return fault.New(fault.ExitRefused, "build.not_reproducible", "the lines above name the file inside each artefact", "building twice: %s differ", strings.Join(differ, ", "))
	}
	if os.Getenv(envTamper) == "1" {
		return fault.New(fault.ExitInternal, "build.tamper_missed", "report this", "building twice: a deliberate difference was not found")
	}
	b.say("reproduce: every byte is the same")
	return os.RemoveAll(base)
}

// lendPartitions gives the second build the first one's root partition.
func (b *builder) lendPartitions(second *builder) error {
	from, to := b.mkosiDir("out"), second.mkosiDir("out")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("preparing the second build: %w", err)
	}
	for _, name := range []string{rootPartition, hashPartition, rootManifest} {
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// copySources copies what the build reads of the repository, with other times.
func (b *builder) copySources(to string) error {
	return filepath.WalkDir(b.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(b.root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path == filepath.Join(b.root, "build") || name == ".git" || name == "node_modules" {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		if err := os.WriteFile(dest, data, st.Mode().Perm()); err != nil {
			return err
		}
		return os.Chtimes(dest, secondTime, secondTime)
	})
}

// runSecond builds in a process of its own, on one processor.
func (b *builder) runSecond(ctx context.Context, second *builder) error {
	modcache, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output()
	if err != nil {
		return fmt.Errorf("asking for Go's module cache: %w", err)
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", secondVerb, second.root, second.out, second.deps, second.cache, b.profile.Name)
	cmd.Dir = second.root
	cmd.Env = append(os.Environ(), secondEnv...)
	cmd.Env = append(cmd.Env, "GOMODCACHE="+strings.TrimSpace(string(modcache)), "GOCACHE="+second.path("gocache"), "GOPATH="+second.path("gopath"), "GOFLAGS=-p=1", "GOMAXPROCS=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building a second time: %w", err)
	}
	return nil
}

// second is the other side of runSecond.
func second(ctx context.Context, args []string) error {
	if len(args) != 5 {
		return errors.New("second: not started by the builder")
	}
	// Threads inherit the affinity of the thread that makes them.
	runtime.LockOSThread()
	var one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &one); err != nil {
		return fmt.Errorf("second: reading the processors in use: %w", err)
	}
	for cpu := len(one)*64 - 1; one.Count() > 1; cpu-- {
		one.Clear(cpu)
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("second: keeping to one processor: %w", err)
	}
	syscall.Umask(0o022) // as in every build: see run
	b := &builder{root: args[0], out: args[1], deps: args[2], cache: args[3], again: true, tamper: os.Getenv(envTamper) == "1"}
	var err error
	if b.profile, err = b.loadProfile(args[4]); err != nil {
		return err
	}
	b.lent = os.Getenv(envSmall) == "1"
	if err := b.requireToolsClock(ctx); err != nil {
		return err
	}
	return errors.Join(b.image(ctx), b.packs(ctx))
}

// compare prints every artefact's hash and returns the names of those that
// differ, after explaining each.
func (b *builder) compare(ctx context.Context, second *builder) ([]string, error) {
	var differ []string
	for _, dir := range []struct {
		name  string
		files []string
	}{
		{b.imageDir(), append(slices.Clone(imageFiles), info.ImageFile)},
		{"packs", []string{"engine.img", "model.img", info.PacksFile}},
		{"mkosi", []string{"init", "extra/usr/bin/cocoon-enclave"}},
	} {
		for _, name := range dir.files {
			x, y := b.path(dir.name, name), second.path(dir.name, name)
			a, err := artefact(x)
			if err != nil {
				return nil, err
			}
			other, err := artefact(y)
			if err != nil {
				return nil, err
			}
			label := dir.name + "/" + name
			if a.SHA256 == other.SHA256 {
				b.say("reproduce: %s  %s", a.SHA256, label)
				continue
			}
			differ = append(differ, label)
			b.say("reproduce: %s  %s DIFFERS, the second is %s", a.SHA256, label, other.SHA256)
			places, err := explain.Files(ctx, explain.Options{Extract: b.extract, Temp: b.path("reproduce")}, x, y)
			if err != nil {
				return nil, err
			}
			for _, p := range places {
				b.say("reproduce:     %s", p)
			}
			b.diffoscope(ctx, x, y, b.path("reproduce", strings.ReplaceAll(label, "/", "_")+".diffoscope"))
		}
	}
	return differ, nil
}

// extract unpacks an erofs file system with the tools tree's own program.
func (b *builder) extract(ctx context.Context, image, dir string) error {
	if out, err := b.tree().Command(ctx, "fsck.erofs", "--extract="+dir, image).CombinedOutput(); err != nil {
		return fmt.Errorf("running fsck.erofs: %w\n%s", err, out)
	}
	return nil
}

// diffoscope adds its own report where the host has it; it only tells more.
func (b *builder) diffoscope(ctx context.Context, x, y, report string) {
	path, err := exec.LookPath("diffoscope")
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := exec.CommandContext(ctx, path, "--text", report, x, y).Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 { // 1: they differ
			return
		}
	}
	b.say("reproduce:     diffoscope's report: %s", report)
}
