package result_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoon/verifier/result"
)

// rooms are the first parts of the IDs of checks.
var rooms = regexp.MustCompile(`^(azure|claims|config|dcap|evidence|firmware|foreign|gpu|image|manifest|model|nonce|ocsp|pcr|policy|registry|rim|rtmr|sgx|snp|tdx|tls|tpm)(\.[a-z0-9_-]+)+$`)

// notChecks are codes and names of that form which are in no appraisal's
// result: requests, services, files and enrolment.
var notChecks = regexp.MustCompile(`^(dcap\.(sgx|tdx)|dcap\.policy\.parse|dcap\.quote\.parse|snp\.policy\.parse|gpu\.present|policy\.(parse|invalid)|` +
	`registry\.unreachable|claims\.payout|tpm\.(ek|enroll)\..*|tpm\.ak\.lifetime|rim\.(service|bundle)(\..*)?|snp\.bundle\.parse|snp\.kds|dcap\.collateral\.fetch|evidence\.refused|(tdx|sgx)\.(attributes|xfam|isvprodid|mrenclave|mrsigner))$`)

// literals returns the texts in the verifier's sources, tests left out.
func literals(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			strings.Contains(filepath.Base(filepath.Dir(path)), "test") || filepath.Base(path) == "reference.go" && filepath.Base(filepath.Dir(path)) == "result" {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if _, ok := n.(*ast.ImportSpec); ok {
				return false
			}
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if s, err := strconv.Unquote(l.Value); err == nil {
					out[s] = path
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEveryCheckNamesADocument holds the table of references against the IDs
// that the sources have, both ways.
func TestEveryCheckNamesADocument(t *testing.T) {
	texts := literals(t)
	for s, path := range texts {
		if rooms.MatchString(s) && !notChecks.MatchString(s) && result.ReferenceOf(s).Document == "" {
			t.Errorf("%s: %q follows no document", path, s)
		}
	}
	// An ID is used if it is a text of the sources, or is put together from two.
	has := func(s string) bool { _, ok := texts[s]; return ok }
	used := func(id string) bool {
		if has(id) {
			return true
		}
		for i := range id {
			if i > 0 && has(id[:i]) && has(id[i:]) {
				return true
			}
		}
		return false
	}
	for _, id := range result.ReferencedIDs() {
		prefix, every := strings.CutSuffix(id, ".")
		switch {
		case !every && used(id), every && (used(id) || used(prefix)):
		case every && slices.ContainsFunc(slices.Collect(maps.Keys(texts)), func(s string) bool { return strings.HasPrefix(s, id) }):
		default:
			t.Errorf("%q has a reference, and nothing makes such a check", id)
		}
	}
}

// TestReferencesToOwnPagesResolve looks for every heading that is cited.
func TestReferencesToOwnPagesResolve(t *testing.T) {
	pages := map[string]string{}
	for _, id := range result.ReferencedIDs() {
		r := result.ReferenceOf(id)
		if r.Document == "" || r.Section == "" {
			t.Errorf("%s: %+v is incomplete", id, r)
		}
		if !strings.HasPrefix(r.Document, "docs/") {
			continue
		}
		if pages[r.Document] == "" {
			b, err := os.ReadFile(filepath.Join("..", "..", r.Document))
			if err != nil {
				t.Fatal(err)
			}
			pages[r.Document] = string(b)
		}
		if !regexp.MustCompile(`(?m)^#+ ` + regexp.QuoteMeta(r.Section) + `$`).MatchString(pages[r.Document]) {
			t.Errorf("%s: %s has no heading %q", id, r.Document, r.Section)
		}
	}
}

// TestEveryDocumentHasAnEdition wants of each document that is not the
// project's own the version, revision, release or date that the sections are of.
func TestEveryDocumentHasAnEdition(t *testing.T) {
	edition := regexp.MustCompile(`(^|, )((API )?version|revision|release) \d+(\.\d+)*(,|$)|(^|, )[A-Z][a-z]+ (19|20)\d\d$|, TDX Module \d\.\d$`)
	own := 0
	for id, r := range result.Documents() {
		switch {
		case strings.HasPrefix(r.Title, "docs/"):
			own++
			if r.Edition != "" {
				t.Errorf("%s: the project's own page %s has the edition %q", id, r.Title, r.Edition)
			}
		case !edition.MatchString(r.Edition):
			t.Errorf("%s: %s has the edition %q", id, r.Title, r.Edition)
		case result.ReferenceOf(id).Document != r.Title+", "+r.Edition:
			t.Errorf("%s cites %q", id, result.ReferenceOf(id).Document)
		}
	}
	if n := len(result.Documents()); own == 0 || own == n || n != len(result.ReferencedIDs()) {
		t.Errorf("%d of %d references are to own pages", own, n)
	}
}

func TestTheLongestPrefixIsCited(t *testing.T) {
	for id, want := range map[string]string{
		"tdx.tcb.out_of_date": "EvaluateTcb.cpp, 4.1.2.5.2", "dcap.collateral.fetch.server": "Response codes", "dcap.collateral.else": "Collateral",
		"policy.rule.a.b": "Language Definition", "pcr.9": "3.3.4, PCR Usage", "rtmr.0": "Each register", "manifest.az-tdx": "Manifest", "unknown.check": "", "": "", ".": "",
	} {
		if got := result.ReferenceOf(id).Section; got != want {
			t.Errorf("%s cites %q, want %q", id, got, want)
		}
	}
}
