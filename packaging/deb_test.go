// Package packaging has what the Debian package is made of besides programs
// and pages; scripts/deb puts it together.
package packaging

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cocoon/internal/toolstree"
)

// TestThePackageInstallsInACleanTree builds the package, installs it with its
// dependencies into a fresh Debian tree, and lets systemd verify the unit there.
// It downloads Debian and needs root, so that it runs only where asked for.
func TestThePackageInstallsInACleanTree(t *testing.T) {
	if os.Getenv("COCOON_DEB_TESTS") != "1" {
		t.Skip("downloads a Debian tree: set COCOON_DEB_TESTS=1, as root, with mmdebstrap or debootstrap")
	}
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	out := run("make", "deb")
	deb := regexp.MustCompile(`build/cocoon_\S+\.deb`).FindString(out)
	if deb == "" || !strings.Contains(out, "Overall exposure level") {
		t.Fatalf("make deb says neither package nor exposure:\n%s", out)
	}
	t.Logf("%s", out)
	tree := filepath.Join(t.TempDir(), "debian")
	mirror := os.Getenv("COCOON_DEB_MIRROR")
	if mirror == "" {
		mirror = "http://deb.debian.org/debian"
	}
	// mmdebstrap goes through apt, with the machine's way to its mirrors.
	if _, err := exec.LookPath("mmdebstrap"); err == nil {
		run("mmdebstrap", "--variant=minbase", "--include=systemd,adduser", "trixie", tree, mirror)
	} else {
		run("debootstrap", "--variant=minbase", "--include=systemd,adduser", "trixie", tree, mirror)
	}
	run("cp", filepath.Join(root, deb), filepath.Join(tree, "cocoon.deb"))
	chroot := func(args ...string) string {
		t.Helper()
		return run("chroot", append([]string{tree}, args...)...)
	}
	chroot("dpkg", "-i", "/cocoon.deb")
	chroot("getent", "passwd", "cocoon-hostd")
	if out := chroot("cocoon-hostd", "serve", "--config", "/etc/cocoon/hostd.json", "--check"); !strings.Contains(out, "configuration is good") {
		t.Errorf("the installed configuration: %s", out)
	}
	chroot("cocoon", "doctor", "--help")
	chroot("getent", "passwd", "cocoon-verifier")
	chroot("runuser", "-u", "cocoon-verifier", "--", "cocoon-verifier", "keygen", "--dir", "/var/lib/cocoon-verifier")
	for _, unit := range []string{"cocoon-hostd.service", "cocoon-verifier.service"} {
		if out := chroot("systemd-analyze", "verify", "/usr/lib/systemd/system/"+unit); strings.TrimSpace(out) != "" {
			t.Errorf("systemd-analyze verify: %s", out)
		}
	}
	chroot("dpkg", "-r", "cocoon")
	for _, name := range []string{"etc/cocoon/hostd.json", "etc/cocoon/verifier.yaml"} {
		if _, err := os.Stat(filepath.Join(tree, name)); err != nil {
			t.Errorf("the configuration went with the package: %v", err)
		}
	}
	chroot("dpkg", "-P", "cocoon")
	for _, name := range []string{"etc/cocoon/hostd.json", "etc/cocoon/verifier.yaml", "var/lib/cocoon-verifier"} {
		if _, err := os.Stat(filepath.Join(tree, name)); !os.IsNotExist(err) {
			t.Errorf("%s outlived a purge: %v", name, err)
		}
	}
	if kept, err := filepath.Glob(filepath.Join(tree, "var/backups/cocoon-verifier-*/verifier.key")); err != nil || len(kept) != 1 {
		t.Errorf("a purge kept %v of the verifier's keys, %v", kept, err)
	}
}

// A purge removes what the daemon had, but for vouchers, which are money.
func TestAPurgeKeepsVouchers(t *testing.T) {
	// Whoever has the package here keeps its user.
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "getent"), []byte("#!/bin/sh\nexit 2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][]string{"with a voucher": {"hostd.db", "vouchers/a/00ff.json"}, "without one": {"hostd.db", "vouchers/a/x"}, "with nothing": nil} {
		root := t.TempDir()
		state := filepath.Join(root, "var/lib/cocoon-hostd")
		for _, f := range files {
			path := filepath.Join(state, f)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		verifier := filepath.Join(root, "var/lib/cocoon-verifier")
		if len(files) > 0 {
			if err := errors.Join(os.MkdirAll(verifier, 0o700), os.WriteFile(filepath.Join(verifier, "verifier.key"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // a second purge finds nothing
			cmd := exec.CommandContext(t.Context(), "sh", "postrm", "purge")
			cmd.Env = append(os.Environ(), "DPKG_ROOT="+root, "PATH="+bin+":"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, out)
			}
		}
		if _, err := os.Stat(state); !os.IsNotExist(err) {
			t.Errorf("%s: the state is still there: %v", name, err)
		}
		if _, err := os.Stat(verifier); !os.IsNotExist(err) {
			t.Errorf("%s: the verifier's state is still there: %v", name, err)
		}
		if kept, err := filepath.Glob(filepath.Join(root, "var/backups/cocoon-verifier-*/verifier.key")); err != nil || (len(kept) == 1) != (len(files) > 0) {
			t.Errorf("%s: kept %v of the verifier's, %v", name, kept, err)
		}
		kept, err := filepath.Glob(filepath.Join(root, "var/backups/cocoon-vouchers-*/a/00ff.json"))
		if err != nil || len(kept) != map[bool]int{true: 1}[name == "with a voucher"] {
			t.Errorf("%s: kept %v, %v", name, kept, err)
		}
	}
}

// The package's configuration is one that the daemon reads.
func TestTheDefaultConfigurationIsGood(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "cocoon-hostd")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "cocoon/cmd/cocoon-hostd").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), bin, "serve", "--config", "hostd.json", "--check").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "configuration is good") {
		t.Errorf("%v\n%s", err, out)
	}
}
