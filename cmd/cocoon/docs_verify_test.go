package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral/bundle"
	"cocoon/verifier/collateral/pcstest"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
)

const quotesPage = "../../docs/verify-quotes.md"

func readPage(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(quotesPage)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// runHere runs a command line in this process and returns its exit code and
// output.
func runHere(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	root := newRootCmd()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errOut)
	err := root.ExecuteContext(t.Context())
	if err != nil {
		fault.Print(&errOut, err)
	}
	return fault.ExitCode(err), out.String(), errOut.String()
}

// prepareDocs makes the files that the page's commands name, in a directory
// of their own, and returns what to put on their command lines.
func prepareDocs(t *testing.T) (pcsURL string) {
	t.Helper()
	page := readPage(t)
	dir := t.TempDir()
	pki, err := tdxtest.New("docs")
	if err != nil {
		t.Fatal(err)
	}
	server, err := pcstest.NewDefault(pki)
	if err != nil {
		t.Fatal(err)
	}
	early := nextEvaluation()
	if err := server.AddMade(pki, "tdx", "early", &early); err != nil {
		t.Fatal(err)
	}
	raw, err := pki.Collateral(&early)
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.WriteFile(filepath.Join(dir, "early.json"), raw); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		c    tdxtest.Case
	}{{"tdx-up_to_date", tdxtest.StatusTDX(tcb.UpToDate)}, {"old", tdxtest.StatusTDX(tcb.OutOfDate)}, {"enclave", tdxtest.StatusSGX(tcb.UpToDate)}} {
		if err := writeCase(dir, c.name, pki, &c.c); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeVariants(dir, pki); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"tdx-up_to_date.quote": "quote.bin", "tdx-up_to_date.json": "collateral.json", "old.quote": "old.bin",
		"enclave.quote": "enclave.bin", "tdx-claims.quote": "fresh.bin"} {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	policy := regexp.MustCompile("(?s)```json\n(.*?)```").FindStringSubmatch(page)
	if policy == nil {
		t.Fatal("the page shows no policy")
	}
	for name, b := range map[string][]byte{"policy.json": []byte(policy[1]), "roots.pem": pki.RootPEM()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ts := httptest.NewServer(server)
	t.Cleanup(ts.Close)
	t.Chdir(dir)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	return ts.URL
}

// TestCommandsOfTheQuotesPage runs every command of docs/verify-quotes.md, in
// order, with the test PKI in Intel's place: its roots, its time, its PCS.
func TestCommandsOfTheQuotesPage(t *testing.T) {
	page := readPage(t)
	url := prepareDocs(t)
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
			args = standIn(args, url)
			n++
			code, stdout, stderr := runHere(t, args...)
			if code != want {
				t.Errorf("%s\nexit code is %d, want %d\n%s%s", sc.Text(), code, want, stdout, stderr)
			}
		}
	}
	t.Logf("%d commands ran", n)
	if n < 15 {
		t.Errorf("only %d commands were found", n)
	}
}

// standIn puts the test PKI in Intel's place on a command line.
func standIn(args []string, url string) []string {
	var out []string
	given := map[string]bool{}
	for i, a := range args {
		given[a] = true
		if i > 0 && args[i-1] == "--pcs" {
			a = url
		}
		out = append(out, a)
	}
	if len(args) == 2 {
		return out // "tcb status" of this machine
	}
	out = append(out, "--roots", "roots.pem")
	if !given["--at"] {
		out = append(out, "--at", tdxtest.Now.Format(time.RFC3339))
	}
	if !given["--pcs"] && !given["--collateral"] {
		out = append(out, "--pcs", url)
	}
	return out
}

// TestQuotesPageNamesEveryFlag holds the page against the commands.
func TestQuotesPageNamesEveryFlag(t *testing.T) {
	page := readPage(t)
	for _, cmd := range []*cobra.Command{newVerifyQuoteCmd("tdx"), newVerifyQuoteCmd("sgx"), newTCBStatusCmd(), newCollateralFetchCmd(), newCollateralExportCmd(), newCollateralShowCmd()} {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(page, "--"+f.Name) {
				t.Errorf("%s: --%s is not on the page", cmd.Name(), f.Name)
			}
		})
	}
}

// TestQuotesPageNamesEveryCode looks for codes in the sources and wants each
// on the page.
func TestQuotesPageNamesEveryCode(t *testing.T) {
	page := readPage(t)
	codes := map[string]bool{}
	literal := regexp.MustCompile(`"((?:dcap|tdx|sgx|tcb|claims|file)\.[a-z_]+(?:\.[a-z_]+)*)"`)
	for _, pattern := range []string{
		"../../verifier/dcap/*.go", "../../verifier/tdx/*.go", "../../verifier/sgx/*.go", "../../verifier/tcb/*.go",
		"../../verifier/collateral/*.go", "../../verifier/collateral/*/*.go", "collateral.go", "tcb.go", "dcap_flags.go", "verify_quote*.go",
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
				codes[m[1]] = true
			}
		}
	}
	for _, part := range []string{"root", "chain", "signature", "revoked"} {
		codes["dcap.collateral."+part] = true
	}
	for _, s := range tcb.Statuses() {
		codes[s.Code()] = true
	}
	var missing []string
	for c := range codes {
		if !strings.Contains(page, c) {
			missing = append(missing, c)
		}
	}
	sort.Strings(missing)
	if len(missing) > 0 {
		t.Errorf("not on the page: %s", strings.Join(missing, ", "))
	}
	if len(codes) < 50 {
		t.Errorf("only %d codes were found", len(codes))
	}
}
