// Package azure verifies evidence of Azure confidential VMs. There the guest
// cannot ask the hardware itself: a paravisor (the HCL) runs in front of it,
// holds a virtual TPM, and had the hardware report on itself and on the TPM's
// attestation key when the VM started. The hardware's report, that of SEV-SNP
// or of TDX, comes in with the TPM's quote; a Result goes out, with the verdict
// of the hardware's verifier inside.
//
// The chain is: the hardware vouches for the paravisor and for a hash; the
// hash is that of the runtime data; the runtime data has the attestation key;
// the key signed the quote; the quote has the registers and what the verifier
// asked for. The hardware's report is older than any challenge, so that
// freshness is the quote's alone.
package azure

import (
	"time"

	"cocoon/verifier/azure/hcl"
	"cocoon/verifier/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
	"cocoon/verifier/tdx"
	"cocoon/verifier/tpm"
)

// Trust classes of results, as policies name them.
const (
	ClassSNP = "az-snp"
	ClassTDX = "az-tdx"
)

// IDs of the checks of Verify that are neither the hardware's nor the TPM's.
const (
	CheckRuntime  = "azure.runtime.hash"   // the hardware's report data is the hash of the runtime data
	CheckVMPL     = "azure.snp.vmpl"       // the SNP report is the paravisor's
	CheckTDQuote  = "azure.tdx.quote"      // there is a TD quote, and no SNP certificate
	CheckTDReport = "azure.tdx.report"     // the HCL's TDREPORT is what the quote is of
	CheckDebug    = "azure.hardware.debug" // the host cannot look into the VM
)

// Evidence is what an Azure VM shows, as bytes that nobody has checked.
type Evidence struct {
	HCL           []byte    // HCL report: see package hcl
	VCEK          []byte    // SNP: certificate of the chip, DER or PEM
	TDQuote       []byte    // TDX: the quote of the TDREPORT in the HCL report
	Attest        []byte    // TPMS_ATTEST
	Signature     []byte    // TPMT_SIGNATURE
	PCRs          tpm.Banks // register values; nil: those of the log
	EventLog      []byte    // crypto-agile TCG log; empty where there is none
	RuntimeEvents [][]byte  // what PCR 15 was extended with the hash of, in order
}

// Options of Verify.
type Options struct {
	Now time.Time // zero: the present
	// SNP and TDX are the options of the hardware's verifier; nil: its
	// defaults. Time, certificate and padding are set here.
	SNP *snp.Options
	TDX *dcap.Options
	// QualifyingData, AnyQualifyingData and AnySelection are those of
	// tpm.Options.
	QualifyingData    []byte
	AnyQualifyingData bool
	AnySelection      bool
}

// Result is the outcome of a verification.
type Result struct {
	Class   string         // ClassSNP or ClassTDX
	Genuine bool           // no check failed
	HCL     *hcl.Report    // the parsed report
	SNP     *snp.Result    // of ClassSNP; nil if the hardware's report does not parse
	TDX     *tdx.Result    // of ClassTDX; nil if there is no quote that parses
	TPM     *tpm.Result    // what the virtual TPM showed
	Checks  []result.Check // all of them: hardware, binding, TPM
}
