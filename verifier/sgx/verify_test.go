package sgx_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/verifier/quote"
	"cocoon/verifier/sgx"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
)

func TestResultHasWhatTheQuoteSays(t *testing.T) {
	p, err := tdxtest.New("sgx")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{3, 4, 5} {
		c := tdxtest.Case{Quote: tdxtest.DefaultSGX(version), Collateral: tdxtest.DefaultCollateral(quote.TEESGX)}
		c.Quote.Enclave.ConfigSVN, c.Quote.Enclave.ReportData = 7, [64]byte{1, 2, 3}
		raw, coll, err := p.Make(&c)
		if err != nil {
			t.Fatal(err)
		}
		res, err := verified(t, raw, &sgx.Options{Roots: p.Roots(), RawCollateral: coll, Now: tdxtest.Now})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.Quote.Enclave, res.Enclave); diff != "" {
			t.Errorf("version %d: enclave differs:\n%s", version, diff)
		}
		m := res.Measurements()
		if res.Version != int(version) || m["isvsvn"] != "2" || m["configsvn"] != "7" || m["report_data"][:6] != "010203" || len(m["mrenclave"]) != 64 {
			t.Errorf("version %d: measurements are %v", version, m)
		}
	}
}

func TestTDXQuotesAndGarbageAreRefused(t *testing.T) {
	p, err := tdxtest.New("sgx")
	if err != nil {
		t.Fatal(err)
	}
	q := tdxtest.DefaultTDX(4, quote.BodyTD10)
	raw, err := p.Quote(&q)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"a TDX quote": raw, "nothing": nil, "garbage": []byte("SGX quote")} {
		res, err := verified(t, raw, nil)
		if res != nil || !fault.Has(err, "sgx.quote.parse") || fault.ExitCode(err) != fault.ExitParse {
			t.Errorf("%s: result %v, error %v", name, res, err)
		}
	}
}

// ExampleVerify verifies a quote of the test PKI. Real ones need no Roots and
// take Now from the clock.
func ExampleVerify() {
	pki, err := tdxtest.New("example")
	if err != nil {
		fmt.Println(err)
		return
	}
	c := tdxtest.StatusSGX(tcb.SWHardeningNeeded)
	raw, collateral, err := pki.Make(&c)
	if err != nil {
		fmt.Println(err)
		return
	}
	res, err := sgx.Verify(raw, &sgx.Options{Roots: pki.Roots(), RawCollateral: collateral, Now: tdxtest.Now})
	if err != nil {
		fmt.Println("refused:", err)
		return
	}
	fmt.Println(res.TCB.Status, res.Measurements()["isvsvn"], res.Debug)
	// Output: SWHardeningNeeded 2 false
}
