package exitcode

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
)

func TestTableIsTheContracts(t *testing.T) {
	src, err := os.ReadFile(filepath.Join("..", "tolk", "codes.tolk"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"ok": 0}
	for _, m := range regexp.MustCompile(`(?m)^const (\w+) = (\d+)$`).FindAllStringSubmatch(string(src), -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ToLower(m[1])
		want[name] = n
	}
	got := map[string]int{}
	for _, c := range All() {
		got[c.String()] = int(c)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("codes.tolk and the table differ (-tolk +go):\n%s", diff)
	}
}

func TestEveryRefusalHasCodeTextAndRemedy(t *testing.T) {
	for _, c := range All() {
		err := c.Fault("trying")
		if c == OK {
			if err != nil {
				t.Errorf("OK gave %v", err)
			}
			continue
		}
		fs := fault.All(err)
		if len(fs) != 1 || fs[0].Code != "contract."+c.String() || fs[0].Remedy == "" || c.Text() == "" || fault.ExitCode(err) == 0 {
			t.Errorf("%v: %v", c, fs)
		}
	}
	if err := Code(9).Fault("x"); !fault.Has(err, "contract.tvm_exit_9") {
		t.Errorf("exit code 9 gave %v", err)
	}
}

func TestDocumentListsEveryCode(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "contracts.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range All() {
		row := "| " + strconv.Itoa(int(c)) + " | `" + c.String() + "` |"
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/contracts.md has no row %q", row)
		}
	}
}
