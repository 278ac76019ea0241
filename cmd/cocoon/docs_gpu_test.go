package main

import (
	"bufio"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgputest"
)

// prepareGPUDocs makes the files that docs/verify-gpu.md names.
func prepareGPUDocs(t *testing.T, page string) {
	t.Helper()
	dir := t.TempDir()
	if err := writeGPUs(dir); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	policy := regexp.MustCompile("(?s)```json\n(.*?)```").FindStringSubmatch(page)
	if policy == nil {
		t.Fatal("the page shows no policy")
	}
	files["policy.json"] = []byte(policy[1])
	p, err := nvgputest.New("scripts")
	if err != nil {
		t.Fatal(err)
	}
	d := nvgputest.GPU(1)
	it, err := p.Make(&d, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"", "brom.der", "provisioner.der", "identity.der"} {
		if name == "" {
			continue
		}
		cert, err := x509.ParseCertificate(it.Chain[i])
		if err != nil {
			t.Fatal(err)
		}
		if files[name], err = p.OCSP(cert, nvgputest.Good, nvgputest.Now, nil); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

// TestCommandsOfTheGPUPage runs every command of docs/verify-gpu.md, in order,
// with the test roots in NVIDIA's place.
func TestCommandsOfTheGPUPage(t *testing.T) {
	page := readRepo(t, "docs/verify-gpu.md")
	prepareGPUDocs(t, page)
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
			line = strings.ReplaceAll(strings.TrimPrefix(line, "$ cocoon "), "$NONCE", gpuNonce)
			args := append(strings.Fields(line), "--roots", "roots.pem", "--at", nvgputest.Now.Format(time.RFC3339))
			n++
			code, stdout, stderr := runHere(t, args...)
			if code != want {
				t.Errorf("%s\nexit code is %d, want %d\n%s%s", sc.Text(), code, want, stdout, stderr)
			}
			if strings.Contains(line, "--ocsp") && strings.Contains(stdout, "skipped ocsp") {
				t.Errorf("%s: the responses show nothing:\n%s", sc.Text(), stdout)
			}
		}
	}
	if n < 7 {
		t.Errorf("only %d commands were found", n)
	}
}

// TestGPUPageNamesEveryFlagAndCheck holds the page against the command and the
// sources.
func TestGPUPageNamesEveryFlagAndCheck(t *testing.T) {
	page := readRepo(t, "docs/verify-gpu.md")
	newVerifyGPUCmd().Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(page, "`--"+f.Name) {
			t.Errorf("--%s is not on the page", f.Name)
		}
	})
	codes := map[string]bool{}
	literal := regexp.MustCompile(`"gpu\.([a-z_]+(?:\.[a-z_]+)*)"`)
	judged := regexp.MustCompile(`(?:judge|a\.judge|a\.pass|a\.atLeast|allow)\((?:a, )?(?:[^"\n]*, )?"([a-z_]+)"`)
	for _, pattern := range []string{"../../verifier/nvgpu/*.go", "../../verifier/policy/nvgpu/*.go", "../../verifier/appraise/nvgpu/*.go", "verify_gpu*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s matches %d files, %v", pattern, len(names), err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range literal.FindAllStringSubmatch(string(b), -1) {
				codes[m[1]] = true
			}
			if strings.Contains(name, "policy/nvgpu") {
				for _, m := range judged.FindAllStringSubmatch(string(b), -1) {
					codes["policy."+m[1]] = true
				}
			}
		}
	}
	var missing []string
	for c := range codes {
		if !strings.Contains(page, "`"+c+"`") && !strings.Contains(page, "`gpu."+c+"`") && c != "refused" && c != "policy.shown" {
			missing = append(missing, c)
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		t.Errorf("not on the page: %s", strings.Join(missing, ", "))
	}
	if len(codes) < 25 {
		t.Errorf("only %d checks were found: %v", len(codes), codes)
	}
	for _, a := range []nvgpu.Arch{nvgpu.Hopper, nvgpu.Blackwell, nvgpu.LS10} {
		if !strings.Contains(page, "`"+string(a)+"`") {
			t.Errorf("%s is not on the page", a)
		}
	}
}
