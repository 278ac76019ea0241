package snp_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
)

// vectorReport is an entry of the vectors' index.
type vectorReport struct {
	Name      string    `json:"name"`
	Report    string    `json:"report"`
	Cert      string    `json:"cert"`
	Version   int       `json:"version"`
	Product   string    `json:"product"`
	Signer    string    `json:"signer"`
	CertValid []string  `json:"cert_valid"`
	Reported  string    `json:"reported_tcb"`
	VMPL      uint32    `json:"vmpl"`
	Expect    string    `json:"expect"`
	Peer      string    `json:"go_sev_guest_v0150_default"`
	raw, cert []byte    // read
	at        time.Time // inside the certificate's validity
}

func loadVectors(t testing.TB) (string, []vectorReport) {
	t.Helper()
	dir := vectors.Dir(t)
	var index struct {
		SNP []vectorReport `json:"snp"`
	}
	if err := json.Unmarshal(readFile(t, dir, "index.json"), &index); err != nil {
		t.Fatal(err)
	}
	for i := range index.SNP {
		v := &index.SNP[i]
		v.raw = readFile(t, dir, v.Report)
		v.at = time.Date(2025, 11, 1, 0, 0, 0, 0, time.UTC)
		if v.Cert == "" {
			continue
		}
		v.cert = readFile(t, dir, v.Cert)
		from, err := time.Parse(time.DateOnly, v.CertValid[0])
		if err != nil {
			t.Fatal(err)
		}
		v.at = from.AddDate(0, 0, 30)
	}
	return dir, index.SNP
}

func readFile(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEveryRealReportHasTheExpectedVerdict(t *testing.T) {
	_, all := loadVectors(t)
	cache := snp.NewCache(snp.CacheOptions{})
	accepted := 0
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			o := &snp.Options{Certificate: v.cert, Now: v.at, Cache: cache}
			res, err := verified(t, v.raw, o)
			if res == nil {
				t.Fatalf("no result: %v", err)
			}
			if res.Version != v.Version || res.VMPL != v.VMPL || !strings.EqualFold(string(res.Signer), v.Signer) ||
				res.TCB.Reported.Raw.String() != v.Reported {
				t.Errorf("result is %+v", res)
			}
			if v.Cert == "" {
				if !fault.Has(err, "snp.cert.missing") || fault.ExitCode(err) != fault.ExitRefused || res.Genuine {
					t.Errorf("without a certificate: %v", err)
				}
				t.Logf("no certificate: snp.cert.missing; expected %q", v.Expect)
				return
			}
			if !strings.HasPrefix(v.Expect, "accept") {
				t.Fatalf("expectation %q is not known", v.Expect)
			}
			if err != nil || !res.Genuine || !strings.EqualFold(string(res.Product), v.Product) || status(res, "snp.signature") != result.Pass || status(res, "snp.chain") != result.Pass {
				t.Errorf("product %s, checks %+v, error %v", res.Product, res.Checks, err)
			}
			peer := "accept"
			if perr := peerVerify(t, v.raw, v.cert, v.at, nil)(); perr != nil {
				peer = "refuse: " + perr.Error()
			}
			if want := v.Peer == "<nil>"; want != (peer == "accept") {
				t.Errorf("go-sev-guest says %q, recorded was %q", peer, v.Peer)
			}
			t.Logf("ours: accept (%s %s v%d); go-sev-guest v0.15.0: %s", res.Product, res.Signer, res.Version, peer)
			accepted++
			// The same from the cache.
			again, err := verified(t, v.raw, o)
			if err != nil || len(again.Checks) != len(res.Checks) {
				t.Errorf("warm: %v", err)
			}
		})
	}
	if len(all) != 13 || accepted != 12 {
		t.Errorf("%d of %d reports accepted, want 12 of 13", accepted, len(all))
	}
}

func status(res *snp.Result, id string) string {
	for _, c := range res.Checks {
		if c.ID == id {
			return c.Status
		}
	}
	return ""
}

func TestRealInvalidCertificatesAreRefused(t *testing.T) {
	dir, all := loadVectors(t)
	for _, name := range []string{"neg-trustee-vcek-invalid-legacy", "neg-trustee-vcek-invalid-new"} {
		cert := readFile(t, dir, "snp", name+".vcek.der")
		for _, v := range all {
			_, err := verified(t, v.raw, &snp.Options{Certificate: cert, Now: v.at})
			if err == nil {
				t.Errorf("%s: accepted with %s", v.Name, name)
			}
			if strings.Contains(v.Name, "7c61") || strings.Contains(v.Name, "05b7") {
				t.Logf("%s with %s: %v", v.Name, name, err)
			}
		}
	}
}

func TestRealCertificateOfAnotherReportIsRefused(t *testing.T) {
	_, all := loadVectors(t)
	for _, a := range all {
		for _, b := range all {
			if b.Cert == "" || string(a.cert) == string(b.cert) {
				continue
			}
			res, err := verified(t, a.raw, &snp.Options{Certificate: b.cert, Now: b.at})
			if err == nil || res.Genuine || fault.ExitCode(err) != fault.ExitRefused {
				t.Errorf("%s with the certificate of %s: %v", a.Name, b.Name, err)
			}
		}
	}
}
