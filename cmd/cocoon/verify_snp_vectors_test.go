package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/result"
)

// TestVerifySNPGivesEveryRealReportItsVerdict runs the plain command on every
// real report: signature and chain are as the vectors say, and the exit code
// is that of the policy which applies where none is given.
func TestVerifySNPGivesEveryRealReportItsVerdict(t *testing.T) {
	dir := vectors.Dir(t)
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		SNP []struct {
			Name, Report, Cert, Product, Signer, Expect string
			Version                                     int
			Valid                                       []string `json:"cert_valid"`
			Peer                                        string   `json:"go_sev_guest_v0150_default"`
		} `json:"snp"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	for _, v := range index.SNP {
		t.Run(v.Name, func(t *testing.T) {
			args := []string{"verify", "snp", "--report", filepath.Join(dir, v.Report), "--json"}
			want := fault.ExitOK
			switch {
			case v.Cert == "":
				want = fault.ExitRefused
			default:
				from, err := time.Parse(time.DateOnly, v.Valid[0])
				if err != nil {
					t.Fatal(err)
				}
				args = append(args, "--cert", filepath.Join(dir, v.Cert), "--at", from.AddDate(0, 0, 30).Format(time.RFC3339))
				if strings.HasSuffix(v.Name, "377e") { // debug
					want = fault.ExitPolicy
				}
			}
			code, stdout, stderr := runHere(t, args...)
			var rep snpReport
			if err := json.Unmarshal([]byte(stdout), &rep); err != nil {
				t.Fatalf("%v in %s%s", err, stdout, stderr)
			}
			if code != want || rep.Accepted != (want == fault.ExitOK) || rep.Version != v.Version || !strings.EqualFold(string(rep.Signer), v.Signer) {
				t.Errorf("exit code %d, want %d: %s", code, want, stdout)
			}
			passed := func(id string) bool {
				return slices.ContainsFunc(rep.Checks, func(c result.Check) bool { return c.ID == id && c.Status == result.Pass })
			}
			if accept := strings.HasPrefix(v.Expect, "accept"); passed("snp.signature") != accept || passed("snp.chain") != accept ||
				(accept && !strings.EqualFold(string(rep.Product), v.Product)) {
				t.Errorf("expected %q: %s", v.Expect, stdout)
			}
			if v.Cert == "" && !strings.Contains(stdout, `"snp.cert.missing"`) {
				t.Errorf("without a certificate: %s", stdout)
			}
			peer := v.Peer
			if peer == "<nil>" {
				peer = "accept"
			}
			t.Logf("exit %d; expected %q; go-sev-guest v0.15.0: %s", code, v.Expect, peer)
		})
	}
	if len(index.SNP) != 13 {
		t.Errorf("%d reports, want 13", len(index.SNP))
	}
}
