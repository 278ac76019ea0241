package tdx

import (
	"encoding/hex"

	"cocoon/internal/fault"
	"cocoon/verifier/dcap"
	"cocoon/verifier/quote"
)

var tee = dcap.TEE{Name: "tdx", Type: quote.TEETDX, TCBInfoID: "TDX", IdentityID: "TD_QE"}

// Verify verifies a TDX quote. A nil error means that the quote is genuine: it
// was signed in a TD on a platform that Intel vouches for, at the time of the
// options, and the platform's TCB is neither revoked nor unknown. It does not
// mean that the TCB is up to date or that the TD is one to trust: see
// Result.TCB and Result.TD, and appraise them by a policy.
//
// The Result is nil only where the quote does not parse (tdx.quote.parse).
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
	res.TD.Decode(q)
	// Bits 7 to 0 are the group "TD under debug": any of them set means that
	// the TD is not to be trusted (TDX module ABI, ATTRIBUTES).
	res.Debug = res.TD.Attributes[0] != 0
	r := dcap.Start(q, &tee, o, &res.Result)
	checkModule(r, &res.TD)
	var current *[16]byte
	if res.TD.BodyType >= quote.BodyTD15 {
		current = &res.TD.TEETCBSVN2
	}
	r.Evaluate(&res.TD.TEETCBSVN, current)
	return res, r.Finish()
}

const (
	idModule         = "tdx.module.identity"
	idModuleSigner   = "tdx.module.mrsigner"
	idSEAMAttributes = "tdx.module.attributes"
)

// checkModule checks the TDX module's signer and attributes
// (QuoteVerifier.cpp, step 4.1.2.5.12): those of tdxModule, or of the module
// identity where the module's major version, TEE_TCB_SVN[1], is above 0.
func checkModule(r *dcap.Run, td *TD) {
	if r.Set == nil || r.Set.TCBInfo().Module == nil {
		r.Skip(idModule, "there is no TDX TCB info")
		return
	}
	info := r.Set.TCBInfo()
	m := info.Module
	if major := td.TEETCBSVN[1]; major > 0 {
		// Where there is no identity the evaluation says NotSupported.
		if id := info.FindModule(major); id != nil {
			m = id
		}
	}
	if m.MRSigner != td.MRSignerSEAM {
		r.Fail(fault.ExitRefused, idModuleSigner, hex.EncodeToString(m.MRSigner[:]), hex.EncodeToString(td.MRSignerSEAM[:]),
			"TDX module has another signer", "boot the platform with Intel's TDX module")
	} else {
		r.Pass(idModuleSigner)
	}
	// Intel's library wants zero whatever the mask: no attribute is defined.
	if td.SEAMAttributes != m.Attributes || td.SEAMAttributes != [8]byte{} {
		r.Fail(fault.ExitRefused, idSEAMAttributes, hex.EncodeToString(m.Attributes[:]), hex.EncodeToString(td.SEAMAttributes[:]),
			"TDX module has other attributes", "boot the platform with Intel's production TDX module")
	} else {
		r.Pass(idSEAMAttributes)
	}
}
