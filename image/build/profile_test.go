package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/image/debs"
	"cocoon/image/info"
	"cocoon/image/lock"
	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

func repo(t *testing.T) *builder {
	t.Helper()
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	return &builder{root: root, out: t.TempDir()}
}

func TestTheProfilesOfTheRepositoryAreRead(t *testing.T) {
	b := repo(t)
	docs, err := filepath.Glob(filepath.Join(b.root, "image", "profiles", "*.json"))
	if err != nil || len(docs) != 3 {
		t.Fatalf("%d profiles, error %v", len(docs), err)
	}
	images := map[string]bool{}
	for _, d := range docs {
		p, err := b.loadProfile(strings.TrimSuffix(filepath.Base(d), ".json"))
		if err != nil {
			t.Fatal(err)
		}
		if images[p.Image] {
			t.Errorf("two profiles make an image called %s", p.Image)
		}
		images[p.Image] = true
		if p.Debug != (p.Name == "debug") || p.special() != (p.Name == "nvidia") {
			t.Errorf("%s: debug %t, own packages %t", p.Name, p.Debug, p.special())
		}
	}
	for _, name := range []string{"", "other", "../cpu", "CPU"} {
		if _, err := b.loadProfile(name); !fault.Has(err, "image.profile") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestProfilesAreStrict(t *testing.T) {
	const good = `{"format":1,"name":"x","image":"cocoon-x","debug":false,"kernel":"linux-image-amd64","suite":"s","floor":"6.16","packages":[{"name":"p","floor":"1","from":"there"}],"keep":["usr/bin/p*"]}`
	if _, err := parseProfile([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"another format":            {`"format":1`, `"format":2`},
		"an unknown key":            {`"debug"`, `"verbose"`},
		"a kernel of no floor":      {`"floor":"6.16"`, `"floor":""`},
		"a package from nobody":     {`"from":"there"`, `"from":""`},
		"a package that is no name": {`"name":"p"`, `"name":"--p"`},
		"a path upwards":            {`usr/bin/p*`, `usr/../../p`},
		"an absolute path":          {`usr/bin/p*`, `/usr/bin/p`},
		"a command in a path":       {`usr/bin/p*`, `usr/$(id)`},
		"a component of options":    {`"suite":"s"`, `"suite":"s","components":["non-free [trusted=yes]"]`},
		"main as an extra":          {`"suite":"s"`, `"suite":"s","components":["main"]`},
	} {
		in := strings.Replace(good, edit[0], edit[1], 1)
		if in == good {
			t.Fatalf("%s: the case changes nothing", name)
		}
		if _, err := parseProfile([]byte(in)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEveryMissingPackageIsNamedWithWhereItComesFrom(t *testing.T) {
	b := repo(t)
	p, err := b.loadProfile("nvidia")
	if err != nil {
		t.Fatal(err)
	}
	from := map[string]string{}
	var missing []debs.Wanted
	for _, k := range p.Packages {
		from[k.Name] = k.From
		missing = append(missing, debs.Wanted{Name: k.Name, Floor: k.Floor})
	}
	missing[1].Offered = "535.1"
	err = unavailable(p.Name, missing, from)
	if !fault.Has(err, codePackageUnavailable) || fault.ExitCode(err) != fault.ExitNotReady {
		t.Fatalf("got %v", err)
	}
	var text strings.Builder
	fault.Print(&text, err)
	for _, k := range p.Packages {
		if !strings.Contains(text.String(), k.Name) || !strings.Contains(text.String(), k.From) {
			t.Errorf("%s from %q is not named in:\n%s", k.Name, k.From, text.String())
		}
	}
	if !strings.Contains(text.String(), "newest offered is 535.1") {
		t.Errorf("what is offered is not said:\n%s", text.String())
	}
	if err := unavailable(p.Name, nil, from); err != nil {
		t.Errorf("nothing is missing: %v", err)
	}
}

func TestThePackagesOfMkosiConfAreRead(t *testing.T) {
	got, err := repo(t).rootPackages()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ca-certificates", "containerd", "e2fsprogs", "runc"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := confPackages("[Content]\nBootable=no\n"); err == nil {
		t.Error("a configuration without packages was read")
	}
}

func locked(set, name, version string) lock.Locked {
	return lock.Locked{Set: set, Name: name, Version: version, Arch: "amd64", SHA256: strings.Repeat("ab", 32)}
}

func TestWhatReplacesALockedPackageIsSaid(t *testing.T) {
	l := lock.Packages{Packages: []lock.Locked{locked(lock.SetRoot, "libc6", "2.41-12"), locked(lock.SetTools, "bash", "5.2")}}
	got := moved(l, map[string][]debs.Deb{
		lock.SetRoot:  {{Name: "libc6", Version: "2.41-13", Source: debs.FromNewer, Pinned: "2.41-12"}, {Name: "libnew", Version: "1", Source: debs.FromRelease}},
		lock.SetTools: {{Name: "bash", Version: "5.2", Source: debs.FromLock}, {Name: "qemu-system-x86", Version: "11", Source: debs.FromPin}},
	})
	if len(got) != 1 || !strings.HasPrefix(got[0], "tools.pin_unavailable: root: libc6 2.41-12 is replaced by 2.41-13, libnew 1 is new; ") {
		t.Errorf("got %q", got)
	}
	if got := moved(lock.Packages{}, nil); len(got) != 1 || !strings.Contains(got[0], "make lock") {
		t.Errorf("without a lock: %q", got)
	}
}

func TestLockChangesAreListed(t *testing.T) {
	old := lock.Packages{Packages: []lock.Locked{locked(lock.SetRoot, "a", "1"), locked(lock.SetRoot, "b", "1"), locked(lock.SetRoot, "c", "1")}}
	next := lock.Packages{Packages: []lock.Locked{locked(lock.SetRoot, "a", "1"), locked(lock.SetRoot, "b", "2"), locked(lock.SetRoot, "d", "1")}}
	want := []string{"root/b 1 became 2", "root/c 1 is gone", "root/d 1 is new"}
	if diff := cmp.Diff(want, lockChanges(old, next)); diff != "" {
		t.Error(diff)
	}
}

// The lock gates the build: a package that was not chosen by its hash refuses
// it, whoever brought it.
func TestAPackageThatWasNotChosenStopsTheBuild(t *testing.T) {
	chosen := []debs.Deb{{Name: "libc6", Version: "2.41-12", Arch: "amd64", SHA256: strings.Repeat("ab", 32)}}
	got, err := checkInstalled([]info.Package{{Name: "libc6", Version: "2.41-12"}}, chosen)
	if err != nil || len(got) != 1 || got[0].SHA256 != chosen[0].SHA256 {
		t.Errorf("got %+v, error %v", got, err)
	}
	for _, p := range []info.Package{{Name: "libc6", Version: "2.41-13"}, {Name: "evil", Version: "1"}} {
		if _, err := checkInstalled([]info.Package{p}, chosen); !fault.Has(err, info.CodePackages) {
			t.Errorf("%s %s: %v", p.Name, p.Version, err)
		}
	}
}

func TestAChangedPackageIsNotServed(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not here")
	}
	dir, sum := t.TempDir(), strings.Repeat("ab", 32)
	if err := os.WriteFile(filepath.Join(dir, sum+".deb"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err := serveDebs(context.Background(), dir, []debs.Deb{{Name: "p", SHA256: sum}})
	if !fault.Has(err, "build.cache_corrupt") {
		t.Errorf("got %v", err)
	}
	if _, _, err := serveDebs(context.Background(), dir, []debs.Deb{{Name: "p", SHA256: strings.Repeat("cd", 32)}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a package that is not there: %v", err)
	}
}

// The lock of the repository names every package that mkosi.conf asks for.
func TestTheRepositorysLockIsComplete(t *testing.T) {
	b := repo(t)
	_, l, err := b.packageLock()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, p := range l.Packages {
		have[p.Set+"/"+p.Name] = true
	}
	roots, err := b.rootPackages()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range roots {
		if !have[lock.SetRoot+"/"+name] {
			t.Errorf("%s is not locked", name)
		}
	}
	for _, name := range []string{"tools/mkosi", "tools/erofs-utils", "tools/systemd-repart", "tools/systemd-boot-efi", "root/libc6"} {
		if !have[name] {
			t.Errorf("%s is not locked", name)
		}
	}
	if n := len(l.Set(lock.SetKernel)); n != 4 {
		t.Errorf("%d kernel packages are locked, want 4", n)
	}
	// The archive is opened with the suites that tools.lock pins from.
	tools, err := lock.Load(filepath.Join(b.root, "tools.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(tools.Suites(), kernelSuite) {
		t.Errorf("the kernel's suite %s is not among %v", kernelSuite, tools.Suites())
	}
}
