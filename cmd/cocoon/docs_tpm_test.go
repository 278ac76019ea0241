package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoon/internal/vectors"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/tpmtest"
)

const tpmPage = "docs/verify-tpm.md"

// TestCommandsOfTheTPMPage runs every command of the page on files of a
// machine that does not exist, and on real Azure evidence where it is here.
func TestCommandsOfTheTPMPage(t *testing.T) {
	page := readRepo(t, tpmPage)
	dir := t.TempDir()
	if err := writeLogs(t, dir); err != nil {
		t.Fatal(err)
	}
	// The page's quote is over a challenge, the other over claims.
	for from, to := range map[string]string{"quote.msg": "claims.msg", "quote.sig": "claims.sig", "other.msg": "quote.msg", "other.sig": "quote.sig"} {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to+".new")); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"claims.msg", "claims.sig", "quote.msg", "quote.sig"} {
		if err := os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	azure := vectors.Find()
	if azure == "" && os.Getenv("COCOON_VECTORS_REQUIRED") != "" {
		t.Fatal("test vectors are required and absent")
	}
	if azure != "" {
		for from, to := range map[string]string{"azure-vtpm/snp-trustee-evidence-v2.json": "azure-snp.json", "azure-vtpm/tdx-trustee-evidence-v1.json": "azure-tdx.json",
			"tdx/tdx-v4-trustee-00806f050000-a187.e21.collateral.json": "collateral.json"} {
			b, err := os.ReadFile(filepath.Join(azure, from))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, to), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	dcap := `{"tdx": {"accepted_tcb_status": ["UpToDate", "OutOfDate"], "allow_sept_ve": true}}`
	if err := os.WriteFile(filepath.Join(dir, "dcap.json"), []byte(dcap), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	ran, skipped := 0, 0
	for _, m := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(m[1]) {
			command, comment, _ := strings.Cut(strings.TrimSpace(line), "#")
			want := 0
			if comment != "" {
				if _, err := fmt.Sscanf(strings.TrimSpace(comment), "exit %d", &want); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
			}
			if azure == "" && strings.Contains(command, "azure-") {
				skipped++
				continue
			}
			ran++
			code, stdout, stderr := runHere(t, strings.Fields(strings.TrimPrefix(command, "$ cocoon "))...)
			if code != want {
				t.Errorf("%s: exit code is %d, want %d\n%s%s", strings.TrimSpace(line), code, want, stdout, stderr)
			}
		}
	}
	t.Logf("%d commands ran, %d need the vectors; good at %s", ran, skipped, tpmtest.Now)
	if ran+skipped < 15 {
		t.Errorf("only %d commands were found", ran+skipped)
	}
}

// TestTPMPageNamesEveryFlagRuleAndCode holds the page against the commands
// and the sources.
func TestTPMPageNamesEveryFlagRuleAndCode(t *testing.T) {
	page := readRepo(t, tpmPage)
	for _, cmd := range []*cobra.Command{newVerifyTPMCmd(), newVerifyEvidenceCmd(), newEventlogShowCmd(), newEventlogReplayCmd()} {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(page, "--"+f.Name) {
				t.Errorf("%s: --%s is not on the page", cmd.Name(), f.Name)
			}
		})
	}
	for _, rule := range []string{eventlog.RuleNoActionDigest, eventlog.RuleSeparatorMissing, eventlog.RuleSeparatorDuplicate, eventlog.RuleSeparatorRegister,
		eventlog.RuleSeparatorValue, eventlog.RuleAfterSeparator, eventlog.RuleAfterExit, eventlog.RuleRegister, eventlog.RuleDigestOfAction} {
		if !strings.Contains(page, "`"+rule+"`") {
			t.Errorf("rule %s is not on the page", rule)
		}
	}
	codes := map[string]bool{}
	literal := regexp.MustCompile(`"((?:tpm|azure|eventlog|claims|evidence|manifest|policy)\.[a-z_]+(?:\.[a-z_]+)*)"`)
	for _, pattern := range []string{"../../verifier/tpm/*.go", "../../verifier/azure/*.go", "../../verifier/appraise/tee/*.go", "verify_tpm*.go", "verify_azure.go", "eventlog*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s matches %d files, %v", pattern, len(files), err)
		}
		for _, name := range files {
			// Enrolment is the service's: docs/verifier-api.md.
			if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "enroll.go") {
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
	// Refusals that mean a defect, and such as only unencodable claims give.
	for _, c := range []string{"tpm.refused", "azure.refused", "azure.hardware", "evidence.cpu.refused", "claims.encoding"} {
		delete(codes, c)
	}
	var missing []string
	for c := range codes {
		if !strings.Contains(page, "`"+c) {
			missing = append(missing, c)
		}
	}
	sort.Strings(missing)
	if len(missing) > 0 {
		t.Errorf("not on the page: %s", strings.Join(missing, ", "))
	}
	if len(codes) < 25 {
		t.Errorf("only %d codes were found", len(codes))
	}
}
