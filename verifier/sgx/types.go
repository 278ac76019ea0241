// Package sgx verifies Intel SGX ECDSA quotes, version 3 to 5: a quote and
// opened collateral come in; a Result goes out, with the enclave's identity,
// its TCB status and every check that was made.
//
// Definitions: Intel SGX ECDSA Quote Library Reference, appendix A (quotes);
// Intel's Quote Verification Library (the rules); package tcb (the statuses).
package sgx

import (
	"encoding/hex"
	"strconv"

	"cocoon/verifier/dcap"
	"cocoon/verifier/quote"
)

// Options of Verify.
type Options = dcap.Options

// Result is the outcome of a verification. It is a value: nothing in it
// aliases the quote.
type Result struct {
	dcap.Result
	Enclave Enclave `json:"-"`
}

// Enclave is what a quote says of an enclave.
type Enclave = quote.EnclaveReport

// AttrDebug is the DEBUG bit of the first byte of Attributes.
const AttrDebug = 1 << 1

// Measurements returns the enclave's identity by name: lower-case hex, decimal
// for isvprodid, isvsvn and configsvn.
func (r *Result) Measurements() map[string]string {
	e := &r.Enclave
	return map[string]string{
		"cpusvn":       hex.EncodeToString(e.CPUSVN[:]),
		"miscselect":   hex.EncodeToString(e.MiscSelect[:]),
		"isvextprodid": hex.EncodeToString(e.ISVExtProdID[:]),
		"attributes":   hex.EncodeToString(e.Attributes[:]),
		"mrenclave":    hex.EncodeToString(e.MREnclave[:]),
		"mrsigner":     hex.EncodeToString(e.MRSigner[:]),
		"configid":     hex.EncodeToString(e.ConfigID[:]),
		"isvprodid":    strconv.Itoa(int(e.ISVProdID)),
		"isvsvn":       strconv.Itoa(int(e.ISVSVN)),
		"configsvn":    strconv.Itoa(int(e.ConfigSVN)),
		"isvfamilyid":  hex.EncodeToString(e.ISVFamilyID[:]),
		"report_data":  hex.EncodeToString(e.ReportData[:]),
	}
}
