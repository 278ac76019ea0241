package pid1

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
	groups := map[string]string{}
	for _, g := range Groups() {
		groups[g.Name] = g.Limits["pids.max"] + " processes, " + strings.TrimRight(g.Limits["memory.max"], "MG") + " " + strings.TrimLeft(g.Limits["memory.max"], "0123456789") + "iB"
	}
	if groups[RowContainerd] != "512 processes, 384 MiB" {
		t.Errorf("docs/hardening.md has other limits for containerd: %s", groups[RowContainerd])
	}
	var gpus strings.Builder
	for _, name := range []string{RowNVML, RowNVMLReady, RowPersist, RowFabric} {
		row := Table()[name]
		var keeps []string
		for c, text := range map[int]string{unix.CAP_CHOWN: "CHOWN", unix.CAP_DAC_OVERRIDE: "DAC_OVERRIDE", unix.CAP_SYS_ADMIN: "SYS_ADMIN"} {
			if !slices.Contains(row.Drop, c) {
				keeps = append(keeps, "`"+text+"`")
			}
		}
		slices.Sort(keeps)
		fmt.Fprintf(&gpus, "| `%s` | %d | %s | %s | %s |\n", name, row.User, strings.Join(keeps, " "), strings.Join(row.Namespaces, ", "), groups[row.Cgroup])
	}
	if !strings.Contains(page, gpus.String()+"\n") {
		t.Errorf("docs/hardening.md lacks the programs for GPUs; it should have\n%s", gpus.String())
	}
}
