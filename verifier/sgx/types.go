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
)

// Options of Verify.
type Options = dcap.Options

// Result is the outcome of a verification. It is a value: nothing in it
// aliases the quote.
type Result struct {
	dcap.Result
	Enclave Enclave `json:"-"`
}

// Enclave is what a quote says of an enclave (Intel SDM volume 3D, REPORT), in
// the byte order of the quote.
type Enclave struct {
	CPUSVN       [16]byte
	MiscSelect   [4]byte // little-endian
	ISVExtProdID [16]byte
	Attributes   [16]byte // flags and XFRM, each little-endian
	MREnclave    [32]byte
	MRSigner     [32]byte
	ConfigID     [64]byte
	ISVProdID    uint16
	ISVSVN       uint16
	ConfigSVN    uint16
	ISVFamilyID  [16]byte
	ReportData   [64]byte
}

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
