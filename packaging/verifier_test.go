package packaging

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/needtool"
	"cocoon/internal/toolstree"
	"cocoon/verifier/testfleet"
)

// TestThePackageHasTheVerifiersService builds the package around programs that do
// nothing, unpacks it, and looks at what dpkg would install.
func TestThePackageHasTheVerifiersService(t *testing.T) {
	needtool.Find(t, "dpkg-deb")
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	bin, out, tree := t.TempDir(), t.TempDir(), t.TempDir()
	for _, p := range []string{"cocoon", "cocoon-hostd", "cocoon-gateway", "cocoon-verifier"} {
		if err := os.WriteFile(filepath.Join(bin, p), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "BIN="+bin, "OUT="+out, "LC_ALL=C")
		b, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, b)
		}
		return string(b)
	}
	said := run("bash", "scripts/deb")
	debs, err := filepath.Glob(filepath.Join(out, "cocoon_*_amd64.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("built %v, %v\n%s", debs, err, said)
	}
	run("dpkg-deb", "--raw-extract", debs[0], tree)
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(tree, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, source := range map[string]string{
		"usr/lib/systemd/system/cocoon-verifier.service": "docs/systemd/cocoon-verifier.service",
		"etc/cocoon/verifier.yaml":                       "packaging/verifier.yaml",
		"usr/lib/sysusers.d/cocoon-verifier.conf":        "packaging/cocoon-verifier.sysusers",
	} {
		want, err := os.ReadFile(filepath.Join(root, source))
		if err != nil {
			t.Fatal(err)
		}
		if read(name) != string(want) {
			t.Errorf("%s is not %s", name, source)
		}
	}
	if conf := strings.Fields(read("DEBIAN/conffiles")); !slices.Contains(conf, "/etc/cocoon/verifier.yaml") || !slices.Contains(conf, "/etc/cocoon/hostd.json") {
		t.Errorf("conffiles are %v", conf)
	}
	// Nothing is enabled: neither by a link, nor by a preset, nor by a script.
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.Type()&fs.ModeSymlink != 0 || strings.HasSuffix(path, ".preset")) {
			t.Errorf("%s starts something", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := read("DEBIAN/postinst"); regexp.MustCompile(`systemctl (enable|start|restart)|deb-systemd-`).MatchString(text) {
		t.Errorf("the package starts something:\n%s", text)
	}
	user := regexp.MustCompile(`(?m)^User=(.*)$`).FindStringSubmatch(read("usr/lib/systemd/system/cocoon-verifier.service"))
	if user == nil || user[1] != "cocoon-verifier" {
		t.Fatalf("the unit runs as %v", user)
	}
	t.Run("its user", func(t *testing.T) {
		needtool.Find(t, "systemd-sysusers")
		if os.Getuid() != 0 {
			t.Skip("making a user in a tree needs root")
		}
		run("systemd-sysusers", "--root="+tree, "cocoon-verifier.conf")
		if passwd := read("etc/passwd"); !regexp.MustCompile(`(?m)^cocoon-verifier:[^:]*:\d+:\d+:Cocoon verifier:/var/lib/cocoon-verifier:.*nologin$`).MatchString(passwd) {
			t.Errorf("its user is not there:\n%s", passwd)
		}
	})
	t.Run("its hardening", func(t *testing.T) {
		needtool.Find(t, "systemd-analyze")
		page, err := os.ReadFile(filepath.Join(root, "docs/hardening.md"))
		if err != nil {
			t.Fatal(err)
		}
		limit := regexp.MustCompile("`cocoon-verifier.service` \\| ([0-9])\\.([0-9]) \\|").FindSubmatch(page)
		if limit == nil {
			t.Fatal("the page has no figure")
		}
		// systemd counts in tenths.
		run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+strings.TrimLeft(string(limit[1])+string(limit[2]), "0"),
			filepath.Join(tree, "usr/lib/systemd/system/cocoon-verifier.service"))
	})
}

// TestAnUpgradeLeavesTheStateDirectoryToItsOwner runs postinst with programs in
// the place of those that would change this machine. A service that runs as
// another user by a drop-in has the directory from systemd.
func TestAnUpgradeLeavesTheStateDirectoryToItsOwner(t *testing.T) {
	text, err := os.ReadFile("postinst")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	state, bin, log := filepath.Join(dir, "state"), filepath.Join(dir, "bin"), filepath.Join(dir, "log")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"getent", "adduser", "systemd-sysusers", "systemctl", "install"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho "+name+" \"$@\" >>"+log+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	configure := func() string {
		t.Helper()
		if err := os.RemoveAll(log); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", strings.ReplaceAll(string(text), "/var/lib/cocoon-verifier", state), "postinst", "configure")
		cmd.Env = []string{"PATH=" + bin}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	made := "install -d -m 700 -o cocoon-verifier -g cocoon-verifier " + state + "\n"
	if did := configure(); !strings.Contains(did, made) {
		t.Errorf("installed anew it did\n%s", did)
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if did := configure(); strings.Contains(did, "install ") || !strings.Contains(did, "getent passwd cocoon-verifier\n") {
		t.Errorf("an upgrade did\n%s", did)
	}
}

// TestTheVerifiersDefaultConfigurationWaitsForItsOwner starts it as it is
// installed, and checks it with a policy, a manifest and keys where it looks.
func TestTheVerifiersDefaultConfigurationWaitsForItsOwner(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "cocoon-verifier")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "cocoon/cmd/cocoon-verifier").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	yaml, err := os.ReadFile("verifier.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	config := filepath.Join(dir, "verifier.yaml")
	put := func(name string, b []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("verifier.yaml", bytes.ReplaceAll(yaml, []byte("/var/lib/cocoon-verifier"), []byte(state)))
	refuses := func(args []string, want ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput()
		if err == nil {
			t.Fatalf("it is content:\n%s", out)
		}
		for _, w := range want {
			if !strings.Contains(string(out), w) {
				t.Errorf("nothing says %q:\n%s", w, out)
			}
		}
	}
	check := []string{"--config", config, "--check"}
	// A log keeps its name for good, so nobody gets one that he did not give it.
	for _, args := range [][]string{check, check[:2]} {
		refuses(args, "verifier.config", "origin", "verifier.example/verdicts")
	}
	named := bytes.Replace(yaml, []byte("  # origin:\n"), []byte("  origin: verifier.test/verdicts\n"), 1)
	put("verifier.yaml", bytes.ReplaceAll(named, []byte("/var/lib/cocoon-verifier"), []byte(state)))
	for _, args := range [][]string{check, check[:2]} {
		refuses(args, "verifier.policy", "verifier/policy.json", "put a policy there")
	}
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	files, err := f.Files()
	if err != nil {
		t.Fatal(err)
	}
	put("verifier/policy.json", bytes.ReplaceAll(files[testfleet.FilePolicy], []byte(`"test"`), []byte(`"tdx"`)))
	put("verifier/manifest.json", files[testfleet.FileManifest])
	refuses(check, "verifier.signing_key", "cocoon-verifier keygen")
	if out, err := exec.CommandContext(t.Context(), bin, "keygen", "--dir", state).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), bin, check...).CombinedOutput(); err != nil || !strings.Contains(string(out), "ok\n") {
		t.Errorf("with all that it wants: %v\n%s", err, out)
	}
}
