package sgx

import (
	"cocoon/verifier/dcap"
	"cocoon/verifier/quote"
)

var tee = dcap.TEE{Name: "sgx", Type: quote.TEESGX, TCBInfoID: "SGX", IdentityID: "QE"}

// Verify verifies an SGX quote. A nil error means that the quote is genuine:
// it was signed for an enclave on a platform that Intel vouches for, at the
// time of the options, and the platform's TCB is neither revoked nor unknown.
// It does not mean that the TCB is up to date or that the enclave is one to
// trust: see Result.TCB and Result.Enclave, and appraise them by a policy.
//
// The Result is nil only where the quote does not parse (sgx.quote.parse).
// Otherwise it has every check, and TCB is filled whenever cryptography and
// bindings hold. The error joins a *fault.Fault for each failed check.
func Verify(raw []byte, o *Options) (*Result, error) {
	if o == nil {
		o = &Options{}
	}
	q, err := dcap.Parse(raw, &tee, o)
	if err != nil {
		return nil, err
	}
	res := &Result{}
	res.Enclave.Decode(q.Body)
	res.Debug = res.Enclave.Attributes[0]&AttrDebug != 0
	r := dcap.Start(q, &tee, o, &res.Result)
	r.Evaluate(nil, nil)
	return res, r.Finish()
}
