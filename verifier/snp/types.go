// Package snp verifies AMD SEV-SNP attestation reports: a report and the
// certificate of the key that signed it come in; a Result goes out, with the
// guest's measurements, its TCB versions and every check that was made.
//
// Definitions: AMD 56860, SEV Secure Nested Paging Firmware ABI Specification
// (reports); AMD 57230, VCEK Certificate and KDS Interface Specification
// (certificates). The roots are AMD's for Milan, Genoa and Turin; Bergamo and
// Siena have Genoa's.
package snp

import (
	"encoding/hex"
	"time"

	"cocoon/verifier/result"
	"cocoon/verifier/snp/idblock"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// Options of Verify. One Options value may serve any number of concurrent
// verifications; it is never written to.
type Options struct {
	// Roots are the trusted chains; nil: AMD's.
	Roots *vek.Roots
	// Now is the time of verification; zero: Clock's, or the present.
	Now time.Time
	// Clock gives the time where Now is zero; nil: time.Now.
	Clock func() time.Time
	// Certificate is the VCEK's or VLEK's, DER or PEM; nil: it is taken from
	// the certificate table of an extended report.
	Certificate []byte
	// Chain has the certificates of ASK or ASVK and ARK, DER or PEM, where they
	// came with the report. It adds no trust: each must be one of Roots.
	Chain []byte
	// CRL is the ARK's list of revoked certificates, DER or PEM; nil: none.
	CRL []byte
	// RequireCRL refuses a report where there is no CRL.
	RequireCRL bool
	// CRLMaxAge is how long after its issue a CRL is taken; 0: until its next
	// update, which bounds it in any case.
	CRLMaxAge time.Duration
	// IDBlock and IDAuth are the ID block (96 bytes) and the ID authentication
	// information (4096 bytes) that the guest was launched with; both or none.
	IDBlock, IDAuth []byte
	// Cache keeps verified certificates; nil: nothing is kept.
	Cache *Cache
}

// Result is the outcome of a verification. It is a value: nothing in it
// aliases the report.
type Result struct {
	TEE         string         `json:"tee"`     // "snp"
	Version     int            `json:"version"` // of the report
	Product     report.Product `json:"product"` // empty where neither report nor certificate says
	Signer      report.Signer  `json:"signer"`
	Genuine     bool           `json:"genuine"` // no check failed
	Debug       bool           `json:"debug"`   // the policy lets the host debug the guest
	VMPL        uint32         `json:"vmpl"`
	GuestSVN    uint32         `json:"guest_svn"`
	Policy      Policy         `json:"policy"`
	Platform    Platform       `json:"platform"`
	TCB         TCB            `json:"tcb"`
	Firmware    Firmware       `json:"firmware"`
	Mitigations *Mitigations   `json:"mitigations,omitempty"` // from version 5
	Certificate Certificate    `json:"certificate"`
	CRL         *CRLDates      `json:"crl,omitempty"` // verified
	Checks      []result.Check `json:"checks"`
	// NotAfter is the end of what the checks rest on: the certificate and those above
	// it, and the CRL as the options take it. Zero where there is no certificate.
	NotAfter time.Time `json:"-"`

	// Report is the parsed report.
	Report report.Report `json:"-"`
	// IDBlock is the verified ID block; nil: none was given, or it was refused.
	IDBlock *idblock.Block `json:"-"`
}

// TCB has a report's TCB versions.
type TCB struct {
	Reported  report.TCB `json:"reported"`  // that the signing key is of
	Committed report.TCB `json:"committed"` // that the firmware cannot go below
	Launch    report.TCB `json:"launch"`    // when the guest was launched or imported
	Current   report.TCB `json:"current"`   // when the report was made
}

// Firmware has the versions of the SNP firmware.
type Firmware struct {
	Current   report.Firmware `json:"current"`
	Committed report.Firmware `json:"committed"`
}

// Mitigations are vectors of mitigations that the firmware had in force, a bit
// for each (AMD 56860, LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR).
type Mitigations struct {
	Launch  report.Vector `json:"launch"`
	Current report.Vector `json:"current"`
}

// Policy is the guest policy, bit by bit.
type Policy struct {
	ABIMajor         uint8 `json:"abi_major"`
	ABIMinor         uint8 `json:"abi_minor"`
	SMT              bool  `json:"smt"`
	MigrationAgent   bool  `json:"migration_agent"`
	Debug            bool  `json:"debug"`
	SingleSocket     bool  `json:"single_socket"`
	CXL              bool  `json:"cxl"`
	AES256XTS        bool  `json:"aes_256_xts"`
	RAPLDisabled     bool  `json:"rapl_disabled"`
	CiphertextHiding bool  `json:"ciphertext_hiding"`
	PageSwapDisabled bool  `json:"page_swap_disabled"`
}

// Platform is the platform's configuration, bit by bit.
type Platform struct {
	SMT              bool `json:"smt"`
	TSME             bool `json:"tsme"`
	ECC              bool `json:"ecc"`
	RAPLDisabled     bool `json:"rapl_disabled"`
	CiphertextHiding bool `json:"ciphertext_hiding"`
	AliasCheck       bool `json:"alias_check_complete"`
	TIO              bool `json:"tio"`
	// Raw has all bits, those without a name among them.
	Raw report.Vector `json:"raw"`
}

// Certificate is what is known of the signing key's certificate; it is empty
// where none was given or it was refused.
type Certificate struct {
	Line      report.Product `json:"line,omitempty"` // product line of the chain
	ChipID    string         `json:"chip_id,omitempty"`
	CSP       string         `json:"csp,omitempty"` // VLEK: the cloud provider
	NotBefore time.Time      `json:"not_before,omitzero"`
	NotAfter  time.Time      `json:"not_after,omitzero"`
}

// CRLDates are the dates of a verified CRL.
type CRLDates struct {
	Number     string    `json:"number"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
}

// Measurements returns the report's measurements by name, in lower-case hex.
func (r *Result) Measurements() map[string]string {
	p := &r.Report
	return map[string]string{
		"launch_digest":     hex.EncodeToString(p.LaunchDigest[:]),
		"report_data":       hex.EncodeToString(p.ReportData[:]),
		"host_data":         hex.EncodeToString(p.HostData[:]),
		"family_id":         hex.EncodeToString(p.FamilyID[:]),
		"image_id":          hex.EncodeToString(p.ImageID[:]),
		"id_key_digest":     hex.EncodeToString(p.IDKeyDigest[:]),
		"author_key_digest": hex.EncodeToString(p.AuthorKeyDigest[:]),
		"report_id":         hex.EncodeToString(p.ReportID[:]),
		"report_id_ma":      hex.EncodeToString(p.ReportIDMA[:]),
		"chip_id":           hex.EncodeToString(p.ChipID[:]),
	}
}

// describe fills a result from a parsed report.
func (r *Result) describe(p *report.Report) {
	r.TEE, r.Version, r.Product, r.Signer, r.VMPL, r.GuestSVN = "snp", int(p.Version), p.Product, p.Signer, p.VMPL, p.GuestSVN
	r.Report = *p
	major, minor := p.Policy.ABI()
	r.Policy = Policy{
		ABIMajor: major, ABIMinor: minor, SMT: p.Policy.Has(report.PolicySMT), MigrationAgent: p.Policy.Has(report.PolicyMigrationAgent),
		Debug: p.Policy.Has(report.PolicyDebug), SingleSocket: p.Policy.Has(report.PolicySingleSocket), CXL: p.Policy.Has(report.PolicyCXL),
		AES256XTS: p.Policy.Has(report.PolicyAES256XTS), RAPLDisabled: p.Policy.Has(report.PolicyRAPLDisabled),
		CiphertextHiding: p.Policy.Has(report.PolicyCiphertextHiding), PageSwapDisabled: p.Policy.Has(report.PolicyPageSwapDisabled),
	}
	r.Debug = r.Policy.Debug
	i := p.PlatformInfo
	r.Platform = Platform{
		SMT: i.Has(report.PlatformSMT), TSME: i.Has(report.PlatformTSME), ECC: i.Has(report.PlatformECC),
		RAPLDisabled: i.Has(report.PlatformRAPLDisabled), CiphertextHiding: i.Has(report.PlatformCiphertextHiding),
		AliasCheck: i.Has(report.PlatformAliasCheck), TIO: i.Has(report.PlatformTIO),
		Raw: report.Vector(i),
	}
	r.TCB = TCB{Reported: p.ReportedTCB, Committed: p.CommittedTCB, Launch: p.LaunchTCB, Current: p.CurrentTCB}
	r.Firmware = Firmware{Current: p.Current, Committed: p.Committed}
	if p.Version >= 5 {
		r.Mitigations = &Mitigations{Launch: p.LaunchMitigations, Current: p.CurrentMitigations}
	}
}
