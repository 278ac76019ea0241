package dcap_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/dcap"
	"cocoon/verifier/quote"
	"cocoon/verifier/tdxtest"
)

var (
	tdx = &dcap.TEE{Name: "tdx", Type: quote.TEETDX, TCBInfoID: "TDX", IdentityID: "TD_QE"}
	sgx = &dcap.TEE{Name: "sgx", Type: quote.TEESGX, TCBInfoID: "SGX", IdentityID: "QE"}
)

// quotes are one of each version and body, and real ones where there are.
func quotes(t testing.TB) [][]byte {
	t.Helper()
	p, err := tdxtest.New("dcap")
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for _, q := range []tdxtest.Quote{
		tdxtest.DefaultSGX(3), tdxtest.DefaultSGX(4), tdxtest.DefaultTDX(4, quote.BodyTD10), tdxtest.DefaultTDX(5, quote.BodyTD15), tdxtest.DefaultTDX(5, quote.BodyTD15X),
	} {
		raw, err := p.Quote(&q)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, raw)
	}
	for _, tee := range []string{"tdx", "sgx"} {
		names, err := filepath.Glob(filepath.Join(vectors.Find(), tee, "*.quote.bin"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names[:min(2, len(names))] {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, raw)
		}
	}
	return out
}

// TestTruncatedAndTamperedQuotesAreRefusedOrDiffer cuts quotes at every byte and
// flips the bits of all that parsing looks at.
func TestTruncatedAndTamperedQuotesAreRefusedOrDiffer(t *testing.T) {
	for n, raw := range quotes(t) {
		tee := tdx
		if q, err := quote.Parse(raw, quote.Options{AllowZeroPadding: true}); err != nil {
			t.Fatal(err)
		} else if q.TEE == quote.TEESGX {
			tee = sgx
		}
		o := &dcap.Options{AllowZeroPadding: true}
		want, err := dcap.Parse(raw, tee, o)
		if err != nil {
			t.Fatalf("quote %d: %v", n, err)
		}
		for i := range len(raw) - want.Padding {
			if _, err := dcap.Parse(raw[:i], tee, o); !fault.Has(err, tee.Name+".quote.parse") || fault.ExitCode(err) != fault.ExitParse {
				t.Fatalf("quote %d cut at %d: %v", n, i, err)
			}
			bad := bytes.Clone(raw)
			bad[i] ^= 1 << (i % 8)
			got, err := dcap.Parse(bad, tee, o)
			if err != nil {
				if fault.ExitCode(err) != fault.ExitParse {
					t.Fatalf("quote %d, byte %d flipped: %v", n, i, err)
				}
				continue
			}
			// What is signed is compared by signature; the rest is in fields.
			if bytes.Equal(got.Signed, want.Signed) && bytes.Equal(got.Signature, want.Signature) && bytes.Equal(got.AttestationKey, want.AttestationKey) &&
				bytes.Equal(got.QEReport, want.QEReport) && bytes.Equal(got.QEReportSignature, want.QEReportSignature) && bytes.Equal(got.AuthData, want.AuthData) &&
				got.Cert.Type == want.Cert.Type && bytes.Equal(got.Cert.PEM, want.Cert.PEM) {
				t.Fatalf("quote %d, byte %d flipped: it reads the same", n, i)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, raw := range quotes(f) {
		f.Add(raw, true, false)
		f.Add(raw, false, true)
		f.Add(append(raw[:len(raw):len(raw)], 0, 0), true, true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, isTDX, padding bool) {
		tee := sgx
		if isTDX {
			tee = tdx
		}
		q, err := dcap.Parse(raw, tee, &dcap.Options{AllowZeroPadding: padding})
		if err != nil {
			var one *fault.Fault
			if !errors.As(err, &one) || one.Exit != fault.ExitParse || one.Code != tee.Name+".quote.parse" || one.Remedy == "" {
				t.Fatalf("refused by %v", err)
			}
			return
		}
		if q.TEE != tee.Type || q.Padding != 0 && !padding {
			t.Fatalf("accepted as %s: TEE %#x with %d bytes of padding", tee.Name, q.TEE, q.Padding)
		}
	})
}
