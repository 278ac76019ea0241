package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/needtool"
	"cocoon/internal/toolstree"
)

// TestUnitsStartWhatExists holds each systemd unit's command against the
// program.
func TestUnitsStartWhatExists(t *testing.T) {
	helps := programHelps(t)
	for _, name := range []string{"hostd", "gateway", "verifier"} {
		file := "docs/systemd/cocoon-" + name + ".service"
		m := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/(cocoon-\S+) (.*)$`).FindStringSubmatch(readRepo(t, file))
		if m == nil || m[1] != "cocoon-"+name {
			t.Errorf("%s starts another program: %q", file, m)
			continue
		}
		checkHelp(t, file, m[0], m[1], strings.Fields(m[2]), helps)
	}
}

// TestUnitsAreSandboxed asks systemd how exposed each unit is and holds it
// against the page.
func TestUnitsAreSandboxed(t *testing.T) {
	needtool.Find(t, "systemd-analyze")
	page := readRepo(t, "docs/hardening.md")
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hostd", "gateway", "verifier"} {
		unit := "cocoon-" + name + ".service"
		row := regexp.MustCompile("\\| `" + regexp.QuoteMeta(unit) + "` \\| ([0-9.]+) \\|").FindStringSubmatch(page)
		if row == nil {
			t.Errorf("the page has no figure for %s", unit)
			continue
		}
		limit, err := strconv.ParseFloat(row[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager",
			filepath.Join(root, "docs/systemd", unit)).CombinedOutput()
		got := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindSubmatch(out)
		if err != nil || got == nil {
			t.Errorf("analyzing %s: %v\n%s", unit, err, out)
			continue
		}
		t.Logf("%s: %s", unit, got[1])
		if level, err := strconv.ParseFloat(string(got[1]), 64); err != nil || level > limit {
			t.Errorf("%s has an exposure of %s, at most %s: %v", unit, got[1], row[1], err)
		}
	}
}

// TestTheHardeningPageNamesTestsThatExist holds the third column of its tables
// against the sources.
func TestTheHardeningPageNamesTestsThatExist(t *testing.T) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	for _, top := range []string{"cmd", "enclave", "hostd", "image", "internal", "verifier"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			sources.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(readRepo(t, "docs/hardening.md"), -1)
	if len(names) < 20 {
		t.Errorf("the page names %d tests", len(names))
	}
	for _, m := range names {
		if !strings.Contains(sources.String(), "\nfunc "+m[1]+"(") {
			t.Errorf("the page names %s, which no package has", m[1])
		}
	}
}
