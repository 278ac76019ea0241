package main

import (
	"bufio"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	policy "cocoon/verifier/policy/snp"
	"cocoon/verifier/snptest"
)

const snpPage = "../../docs/verify-snp.md"

func readSNPPage(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(snpPage)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestCommandsOfTheSNPPage runs every command of docs/verify-snp.md, in order,
// with the test PKI in AMD's place: its roots, its time, its KDS.
func TestCommandsOfTheSNPPage(t *testing.T) {
	page := readSNPPage(t)
	w, err := snpWorld()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := w.write(dir); err != nil {
		t.Fatal(err)
	}
	doc := regexp.MustCompile("(?s)```json\n(.*?)```").FindStringSubmatch(page)
	if doc == nil {
		t.Fatal("the page shows no policy")
	}
	if _, err := policy.Parse([]byte(doc[1])); err != nil {
		t.Fatalf("the page's policy: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "policy.json"), []byte(doc[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "report.der"), filepath.Join(dir, "vcek.der")); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(w.server)
	t.Cleanup(ts.Close)
	t.Chdir(dir)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	n := 0
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(page, -1) {
		for sc := bufio.NewScanner(strings.NewReader(block[1])); sc.Scan(); {
			line, comment, _ := strings.Cut(sc.Text(), "#")
			want := 0
			if comment != "" {
				if _, err := fmt.Sscanf(strings.TrimSpace(comment), "exit %d", &want); err != nil {
					t.Fatalf("%s: %v", sc.Text(), err)
				}
			}
			args := strings.Fields(strings.TrimPrefix(line, "$ cocoon "))
			if i := slices.Index(args, "--kds"); i >= 0 {
				args[i+1] = ts.URL
			}
			args = append(args, "--roots", "roots.pem", "--at", snptest.Now.Format(time.RFC3339))
			n++
			if code, stdout, stderr := runHere(t, args...); code != want {
				t.Errorf("%s\nexit code is %d, want %d\n%s%s", sc.Text(), code, want, stdout, stderr)
			}
		}
	}
	t.Logf("%d commands ran", n)
	if n < 10 {
		t.Errorf("only %d commands were found", n)
	}
}

// TestSNPPageNamesEverything holds the page against flags, codes and the keys
// of the policy.
func TestSNPPageNamesEverything(t *testing.T) {
	page := readSNPPage(t)
	newVerifySNPCmd().Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(page, "--"+f.Name) {
			t.Errorf("--%s is not on the page", f.Name)
		}
	})
	n := 0
	for pattern, literal := range map[string]*regexp.Regexp{
		"../../verifier/snp/*.go":        regexp.MustCompile(`"(snp\.[a-z_]+(?:\.[a-z_]+)*)"`),
		"../../verifier/snp/*/*.go":      regexp.MustCompile(`"(snp\.[a-z_]+(?:\.[a-z_]+)*)"`),
		"verify_snp*.go":                 regexp.MustCompile(`"((?:snp|file)\.[a-z_]+(?:\.[a-z_]+)*)"`),
		"../../verifier/policy/snp/*.go": regexp.MustCompile("`json:\"([a-z0-9_]+)(?:,omitempty)?\"`|\"(snp\\.[a-z_.]+)\""),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s matches %d files, %v", pattern, len(files), err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range literal.FindAllStringSubmatch(string(b), -1) {
				n++
				if word := strings.Join(m[1:], ""); !strings.Contains(page, word) {
					t.Errorf("%s: %s is not on the page", name, word)
				}
			}
		}
	}
	if n < 80 {
		t.Errorf("only %d codes and keys were found", n)
	}
}
