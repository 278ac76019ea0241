package pid1

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/toolstree"
)

// The tables in docs/hardening.md are those of the code, row by row.
func TestTheHardeningPageHasTheTables(t *testing.T) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "docs", "hardening.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	var sysctls, mounts strings.Builder
	for _, s := range Sysctls() {
		fmt.Fprintf(&sysctls, "| `%s` | `%s` | %s |\n", s.Name, strings.ReplaceAll(s.Value, "|", `\|`), s.Why)
	}
	for _, m := range Mounts() {
		flags := ""
		for _, f := range mountFlags {
			if m.Flags&f.flag != 0 {
				flags += " " + f.word
			}
		}
		fmt.Fprintf(&mounts, "| `%s` |%s |\n", m.Target, flags)
	}
	for name, table := range map[string]string{"switches": sysctls.String(), "mounts": mounts.String()} {
		if !strings.Contains(page, table+"\n") {
			t.Errorf("docs/hardening.md lacks the table of %s; it should be\n%s", name, table)
		}
	}
	for _, code := range []string{CodeLockdown, CodeModules, CodeSysctl, CodeMount, CodeProcess} {
		if !strings.Contains(page, "| `"+code+"` |") {
			t.Errorf("docs/hardening.md lacks the code %s", code)
		}
	}
	for _, g := range Groups() {
		if g.Limits["pids.max"] != "512" || g.Limits["memory.max"] != "384M" {
			t.Errorf("docs/hardening.md has other limits for %s: %v", g.Name, g.Limits)
		}
	}
}
