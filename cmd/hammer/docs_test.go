package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// root is the repository's.
func root(t *testing.T) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("no source file")
	}
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// commands returns the lines of the page's shell blocks, without comments.
func commands(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root(t), "docs", "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line != "" {
				out = append(out, line)
			}
		}
	}
	return out
}

// TestCommandsOfThePage runs each, with intervals that are short.
func TestCommandsOfThePage(t *testing.T) {
	url, dir := start(t, nil), t.TempDir()
	made := exec.CommandContext(t.Context(), "go", "run", "./cmd/cocoon-verifier", "keygen", "--dir", dir)
	made.Dir = root(t)
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	hammers, scripts := 0, 0
	for _, line := range commands(t) {
		args, ours := strings.CutPrefix(line, "go run ./cmd/hammer ")
		if !ours {
			if !strings.HasPrefix(line, "scripts/performance.sh") {
				t.Errorf("%s: a command that no test runs", line)
			}
			scripts++
			continue
		}
		hammers++
		args = strings.NewReplacer("URL", url, "30s", "100ms", "-load 10", "-load 2", "DIR,KEY,ORIGIN", filepath.Join(dir, "j")+","+filepath.Join(dir, "journal.key")+",hammer.test/verdicts", "1000000", "500").Replace(args)
		var out, progress strings.Builder
		if err := run(t.Context(), strings.Fields(args), &out, &progress); err != nil || out.Len() == 0 {
			t.Errorf("%s: %v\n%s%s", line, err, progress.String(), out.String())
		}
	}
	if hammers < 5 || scripts < 2 {
		t.Errorf("the page has %d commands of the hammer and %d of the script", hammers, scripts)
	}
}

// TestTheScriptMeasuresAll runs it with intervals of a fifth of a second and a small log.
func TestTheScriptMeasuresAll(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), filepath.Join(root(t), "scripts", "performance.sh"), "0.2", "2000")
	cmd.Env = append(os.Environ(), "PERFORMANCE_DIR="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := string(out)
	for _, want := range []string{"== tdx, as fast as answers come", "== snp, ", "== snp with a gpu", "== tdx, 70 %", "== tdx, 10 times", "== journal and log afterwards", "== 2000 entries more", "with the large log"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing:\n%s", want, text)
		}
	}
	rates := regexp.MustCompile(`(?m)^rate +[0-9]+ verdicts/s of [a-z]+, ([0-9]+) in`).FindAllStringSubmatch(text, -1)
	if len(rates) != 8 || slices.ContainsFunc(rates, func(m []string) bool { return m[1] == "0" }) || strings.Count(text, "entries ") < 11 {
		t.Errorf("%d rates:\n%s", len(rates), text)
	}
}
