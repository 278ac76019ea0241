package collateral_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tdxtest"
)

func newCollateral(t testing.TB) (*tdxtest.PKI, *collateral.Raw) {
	t.Helper()
	p, err := tdxtest.New("collateral")
	if err != nil {
		t.Fatal(err)
	}
	c := tdxtest.DefaultCollateral(quote.TEETDX)
	raw, err := p.Collateral(&c)
	if err != nil {
		t.Fatal(err)
	}
	return p, raw
}

func TestJSONIsReadBack(t *testing.T) {
	_, raw := newCollateral(t)
	doc, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, err := collateral.ParseJSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(raw, got); diff != "" {
		t.Errorf("collateral differs:\n%s", diff)
	}
}

func TestJSONIsReadStrictly(t *testing.T) {
	_, raw := newCollateral(t)
	b, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for name, bad := range map[string]string{
		"nothing":                   "",
		"an array":                  "[]",
		"an unknown member":         strings.Replace(doc, "{", `{"x":1,`, 1),
		"a duplicate member":        strings.Replace(doc, "{", `{"pck_crl":"00",`, 1),
		"a member in another case":  strings.Replace(doc, `"pck_crl"`, `"PCK_CRL"`, 1),
		"a missing member":          strings.Replace(doc, `"pck_crl"`, `"pck_crl2"`, 1),
		"an empty member":           `{"pck_crl":""}`,
		"a CRL that is no hex":      strings.Replace(doc, `"root_ca_crl":"30`, `"root_ca_crl":"3x`, 1),
		"half a byte":               strings.Replace(doc, `"root_ca_crl":"30`, `"root_ca_crl":"3`, 1),
		"a short signature":         strings.Replace(doc, `"tcb_info_signature":"`, `"tcb_info_signature":"","x":"`, 1),
		"data after it":             doc + "{}",
		"a document over the limit": doc + strings.Repeat(" ", collateral.MaxJSON),
		"a chain over the limit":    strings.Replace(doc, `"pck_crl_issuer_chain":"`, `"pck_crl_issuer_chain":"`+strings.Repeat("x", collateral.MaxChain), 1),
	} {
		if bad == doc {
			t.Errorf("%s: nothing was changed", name)
		}
		if _, err := collateral.ParseJSON([]byte(bad)); !fault.Has(resulttest.Faults(t, err), "dcap.collateral.parse") || fault.ExitCode(err) != fault.ExitParse {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestVerifyChecksTheTimeOfEachPart(t *testing.T) {
	p, raw := newCollateral(t)
	o := collateral.Options{Roots: p.Roots(), Now: tdxtest.Now}
	set, err := collateral.Verify(raw, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Parts()) != 7 || set.CA() != pck.PlatformCA || !set.NextUpdate().Equal(tdxtest.Now.AddDate(0, 0, 29)) {
		t.Errorf("parts are %+v", set.Parts())
	}
	for _, part := range set.Parts() {
		for at, ok := range map[time.Time]bool{part.IssueDate: true, part.IssueDate.Add(-time.Second): false, part.NextUpdate: true, part.NextUpdate.Add(time.Second): false} {
			err := set.CheckTime(at, 0)
			named := err != nil && strings.Contains(err.Error(), part.Name+" is")
			if named == ok {
				t.Errorf("%s at %s: %v", part.Name, at, err)
			}
		}
	}
	o.Now = tdxtest.Now.AddDate(0, 0, 30)
	if _, err := collateral.Verify(raw, o); len(fault.All(err)) != 3 || !fault.Has(err, "dcap.collateral.expired") {
		t.Errorf("a day after its end: %v", err)
	}
	o.Grace = 24 * time.Hour
	if _, err := collateral.Verify(raw, o); err != nil {
		t.Errorf("with a day of grace: %v", err)
	}
	o.Now = tdxtest.Now.AddDate(0, 0, -2)
	if _, err := collateral.Verify(raw, o); !fault.Has(err, "dcap.collateral.not_yet_valid") || fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("a day before its start: %v", err)
	}
}

func TestOpenReportsEveryPartThatIsWrong(t *testing.T) {
	p, raw := newCollateral(t)
	raw.TCBInfo = bytes.Replace(raw.TCBInfo, []byte("UpToDate"), []byte("Revoked!"), 1)
	raw.QEIdentity = append(raw.QEIdentity, ' ')
	raw.PCKCRL[len(raw.PCKCRL)-1] ^= 1
	_, err := collateral.Open(raw, p.Roots())
	if len(fault.All(err)) != 3 || !fault.Has(err, "dcap.collateral.signature") || fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("error is %v", err)
	}
}

func TestOpenNamesTheCause(t *testing.T) {
	p, good := newCollateral(t)
	other, err := tdxtest.New("other")
	if err != nil {
		t.Fatal(err)
	}
	spec := tdxtest.DefaultCollateral(quote.TEETDX)
	foreign, err := other.Collateral(&spec)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*collateral.Raw)
		code   string
		exit   int
	}{
		"signed documents that do not parse": {func(r *collateral.Raw) {
			r.TCBInfo = []byte(`{"id":"TDX"}`)
			if err := p.Resign(r); err != nil {
				t.Fatal(err)
			}
		}, "dcap.collateral.parse", fault.ExitParse},
		"a QE identity that does not parse": {func(r *collateral.Raw) {
			r.QEIdentity = []byte(`[]`)
			if err := p.Resign(r); err != nil {
				t.Fatal(err)
			}
		}, "dcap.collateral.parse", fault.ExitParse},
		"an issuer chain of another root":       {func(r *collateral.Raw) { r.TCBInfoIssuerChain = foreign.TCBInfoIssuerChain }, "dcap.collateral.root", fault.ExitRefused},
		"an issuer chain that is none":          {func(r *collateral.Raw) { r.QEIdentityIssuerChain = []byte("x") }, "dcap.collateral.chain", fault.ExitRefused},
		"a CA chain as issuer of TCB info":      {func(r *collateral.Raw) { r.TCBInfoIssuerChain = r.PCKCRLIssuerChain }, "dcap.collateral.chain", fault.ExitRefused},
		"a signer's chain as issuer of the CRL": {func(r *collateral.Raw) { r.PCKCRLIssuerChain = r.TCBInfoIssuerChain }, "dcap.collateral.chain", fault.ExitRefused},
		"CRLs exchanged":                        {func(r *collateral.Raw) { r.PCKCRL, r.RootCACRL = r.RootCACRL, r.PCKCRL }, "dcap.collateral.signature", fault.ExitRefused},
		"documents exchanged":                   {func(r *collateral.Raw) { r.TCBInfo, r.QEIdentity = r.QEIdentity, r.TCBInfo }, "dcap.collateral.signature", fault.ExitRefused},
		"documents exchanged with their signatures": {func(r *collateral.Raw) {
			r.TCBInfo, r.QEIdentity, r.TCBInfoSignature, r.QEIdentitySignature = r.QEIdentity, r.TCBInfo, r.QEIdentitySignature, r.TCBInfoSignature
		}, "dcap.collateral.parse", fault.ExitParse},
		"a CRL that does not parse": {func(r *collateral.Raw) { r.RootCACRL = []byte("x") }, "dcap.collateral.chain", fault.ExitRefused},
		"a part that is missing":    {func(r *collateral.Raw) { r.PCKCRL = nil }, "dcap.collateral.parse", fault.ExitParse},
		"a signature of 63 bytes":   {func(r *collateral.Raw) { r.TCBInfoSignature = r.TCBInfoSignature[1:] }, "dcap.collateral.parse", fault.ExitParse},
		"a signature of zeros":      {func(r *collateral.Raw) { r.TCBInfoSignature = make([]byte, 64) }, "dcap.collateral.signature", fault.ExitRefused},
	} {
		raw := *good
		tt.change(&raw)
		if _, err := collateral.Open(&raw, p.Roots()); !fault.Has(err, tt.code) || fault.ExitCode(err) != tt.exit {
			t.Errorf("%s: error is %v, not %s", name, err, tt.code)
		}
	}
}

func TestSetDoesNotChangeWithWhatItWasMadeFrom(t *testing.T) {
	p, raw := newCollateral(t)
	set, err := collateral.Open(raw, p.Roots())
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(raw.TCBInfo)
	for i := range raw.TCBInfo {
		raw.TCBInfo[i] = 0
	}
	if !bytes.Equal(set.Raw().TCBInfo, want) {
		t.Error("the set changed with the bytes it was made from")
	}
	spec := tdxtest.DefaultCollateral(quote.TEETDX)
	spec.PCKCRL.Number++
	raw2, err := p.Collateral(&spec)
	if err != nil {
		t.Fatal(err)
	}
	set2, err := collateral.Open(raw2, p.Roots())
	if err != nil {
		t.Fatal(err)
	}
	if set.Hash() == set2.Hash() {
		t.Error("sets with other CRLs have one hash")
	}
}

func FuzzCollateralJSON(f *testing.F) {
	p, raw := newCollateral(f)
	doc, err := json.Marshal(raw)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Add([]byte(`{"pck_crl":"00"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		raw, err := collateral.ParseJSON(doc)
		if err != nil {
			return
		}
		if _, err := json.Marshal(raw); err != nil {
			t.Fatal(err)
		}
		set, err := collateral.Open(raw, p.Roots())
		if err == nil && (set.TCBInfo() == nil || set.QEIdentity() == nil || len(set.Parts()) != 7) {
			t.Fatalf("set is %+v", set)
		}
	})
}
