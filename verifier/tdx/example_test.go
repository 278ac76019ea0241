package tdx_test

import (
	"fmt"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdx"
	"cocoon/verifier/tdxtest"
)

// ExampleVerify opens collateral once and verifies with it, as a service does.
// The quote is one of the test PKI: real ones need no Roots and take the time
// from the clock.
func ExampleVerify() {
	pki, err := tdxtest.New("example")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, status := range []tcb.Status{tcb.UpToDate, tcb.OutOfDate, tcb.Revoked} {
		c := tdxtest.StatusTDX(status)
		quote, raw, err := pki.Make(&c)
		if err != nil {
			fmt.Println(err)
			return
		}
		set, err := collateral.Verify(raw, collateral.Options{Roots: pki.Roots(), Now: tdxtest.Now})
		if err != nil {
			fmt.Println(err)
			return
		}
		res, err := tdx.Verify(quote, &tdx.Options{Roots: pki.Roots(), Collateral: set, Now: tdxtest.Now, Cache: dcap.NewCache(dcap.CacheOptions{})})
		fmt.Println(res.TCB.Status, res.Genuine, fault.ExitCode(err))
	}
	// Output:
	// UpToDate true 0
	// OutOfDate true 0
	// Revoked false 2
}
