// Package snp is the part of a policy that speaks of AMD SEV-SNP reports: what
// a verifier or a client accepts of a report that is genuine. In come a
// strictly parsed JSON document and a verification's result; out comes a list
// of checks, all of them, failed or not.
//
// What the document leaves out is as strict as it can be without knowing
// workload and platform: no debugging, no migration agent. What a field names
// is wanted of every report; what it does not name is not looked at.
package snp

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/policy/dcap"
	"cocoon/verifier/snp/report"
)

// Limits of a policy document.
const (
	MaxSize    = 256 << 10
	maxEntries = 4096                // values in one list
	maxCRLAge  = 2 * 365 * 24 * 3600 // seconds
)

// Hex is a byte string that JSON carries as lower-case hex.
type Hex = dcap.Hex

// Policy says which reports are accepted. Lists of values are allow lists; an
// empty one accepts any value.
type Policy struct {
	Products []report.Product `json:"products,omitempty"`
	Signers  []report.Signer  `json:"signers,omitempty"` // VCEK, VLEK
	// CSPs are the providers whose VLEKs are accepted, as the certificate has
	// them.
	CSPs       []string `json:"csps,omitempty"`
	MinVersion uint32   `json:"min_version,omitempty"` // of the report

	// RequireCRL refuses a report that was not held against AMD's CRL;
	// CRLMaxAgeSeconds is how old the CRL may be, 0: until its next update. Both
	// have to be given to the verification, too: see CRLMaxAge.
	RequireCRL       bool  `json:"require_crl,omitempty"`
	CRLMaxAgeSeconds int64 `json:"crl_max_age_seconds,omitempty"`

	// AllowDebug accepts guests that their host can read and write.
	AllowDebug bool `json:"allow_debug,omitempty"`
	// AllowMigrationAgent accepts guests that a migration agent may move: it
	// has their keys.
	AllowMigrationAgent bool `json:"allow_migration_agent,omitempty"`
	// Guest is what the guest policy must say.
	Guest *Guest `json:"guest,omitempty"`
	// Platform is what the platform info must say.
	Platform *Platform `json:"platform,omitempty"`

	VMPLs        []uint32        `json:"vmpls,omitempty"`
	MinGuestSVN  uint32          `json:"min_guest_svn,omitempty"`
	LaunchDigest []digest.SHA384 `json:"launch_digest,omitempty"`
	HostData     []digest.SHA256 `json:"host_data,omitempty"`
	FamilyIDs    []Hex           `json:"family_ids,omitempty"` // 16 bytes each
	ImageIDs     []Hex           `json:"image_ids,omitempty"`  // 16 bytes each
	ChipIDs      []Hex           `json:"chip_ids,omitempty"`   // 64 bytes each
	// ReportData is the report data wanted; absent: any. 64 bytes.
	ReportData Hex `json:"report_data,omitempty"`

	// IDKeys and AuthorKeys are SHA-384 digests of keys in AMD's format. A
	// policy that names one needs the ID block that the guest was launched with
	// and its authentication: the signatures are verified, the report's digests
	// alone are not enough.
	IDKeys         []digest.SHA384 `json:"id_keys,omitempty"`
	AuthorKeys     []digest.SHA384 `json:"author_keys,omitempty"`
	RequireIDBlock bool            `json:"require_id_block,omitempty"`

	// Least TCB versions by product, each component by itself. A product that
	// is not in a map with entries is refused.
	MinTCB          map[report.Product]Components `json:"min_tcb,omitempty"`           // reported
	MinCommittedTCB map[report.Product]Components `json:"min_committed_tcb,omitempty"` // committed
	MinLaunchTCB    map[report.Product]Components `json:"min_launch_tcb,omitempty"`    // launch
	// RequireCommitted refuses firmware that is not committed: the host could
	// take it back.
	RequireCommitted bool `json:"require_committed,omitempty"`
	// MinFirmware is the least committed firmware version.
	MinFirmware *report.Firmware `json:"min_firmware,omitempty"`
	// Mitigations are those that must have been in force; reports before
	// version 5 do not say and are refused where a bit is wanted.
	Mitigations *Mitigations `json:"mitigations,omitempty"`
}

// Components are least component versions.
type Components struct {
	FMC        uint8 `json:"fmc,omitempty"` // Turin only
	Bootloader uint8 `json:"bootloader,omitempty"`
	TEE        uint8 `json:"tee,omitempty"`
	SNP        uint8 `json:"snp,omitempty"`
	Microcode  uint8 `json:"microcode,omitempty"`
}

// tcb returns the components as a TCB version to compare with.
func (c Components) tcb() report.TCB {
	return report.TCB{FMC: c.FMC, Bootloader: c.Bootloader, TEE: c.TEE, SNP: c.SNP, Microcode: c.Microcode}
}

// ABI is a version of the firmware's ABI.
type ABI struct {
	Major uint8 `json:"major"`
	Minor uint8 `json:"minor"`
}

// Guest is what a guest policy must say. Absent: not looked at.
type Guest struct {
	MinABI           *ABI  `json:"min_abi,omitempty"` // least value of the policy's own least ABI version
	SMT              *bool `json:"smt,omitempty"`
	SingleSocket     *bool `json:"single_socket,omitempty"`
	CXL              *bool `json:"cxl,omitempty"`
	AES256XTS        *bool `json:"aes_256_xts,omitempty"`
	RAPLDisabled     *bool `json:"rapl_disabled,omitempty"`
	CiphertextHiding *bool `json:"ciphertext_hiding,omitempty"`
	PageSwapDisabled *bool `json:"page_swap_disabled,omitempty"`
}

// Platform is what the platform info must say. Absent: not looked at.
type Platform struct {
	SMT              *bool `json:"smt,omitempty"`
	TSME             *bool `json:"tsme,omitempty"`
	ECC              *bool `json:"ecc,omitempty"`
	RAPLDisabled     *bool `json:"rapl_disabled,omitempty"`
	CiphertextHiding *bool `json:"ciphertext_hiding,omitempty"`
	AliasCheck       *bool `json:"alias_check_complete,omitempty"`
	TIO              *bool `json:"tio,omitempty"`
}

// Mitigations are bits that must be set.
type Mitigations struct {
	Launch  report.Vector `json:"launch"`
	Current report.Vector `json:"current"`
}

// Default returns the policy that applies where none is given.
func Default() *Policy { return &Policy{} }

// Parse reads a policy from JSON; unknown and duplicate keys and values that
// make no sense are refused. The error is a fault with code snp.policy.parse.
func Parse(doc []byte) (*Policy, error) {
	var p Policy
	err := jcs.Decode(doc, MaxSize, &p)
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "snp.policy.parse", "the keys are described in docs/verify-snp.md", "reading policy: %w", err)
	}
	return &p, nil
}

// CRLMaxAge returns the age for snp.Options.CRLMaxAge.
func (p *Policy) CRLMaxAge() time.Duration { return time.Duration(p.CRLMaxAgeSeconds) * time.Second }

var products = []report.Product{report.Milan, report.Genoa, report.Siena, report.Turin}

// Validate refuses policies that contradict themselves. Parse calls it; who
// embeds a Policy in another document has to.
func (p *Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, x := range p.Products {
		if !slices.Contains(products, x) {
			bad("products: %.32q is not one of %v", x, products)
		}
	}
	for _, s := range p.Signers {
		if s != report.VCEK && s != report.VLEK {
			bad("signers: %.32q is neither VCEK nor VLEK", s)
		}
	}
	if p.MinVersion > 5 {
		bad("min_version: %d is above 5, the latest that is read", p.MinVersion)
	}
	if p.CRLMaxAgeSeconds < 0 || p.CRLMaxAgeSeconds > maxCRLAge {
		bad("crl_max_age_seconds: %d is not between 0 and %d", p.CRLMaxAgeSeconds, maxCRLAge)
	}
	if p.CRLMaxAgeSeconds > 0 && !p.RequireCRL {
		bad("crl_max_age_seconds: means nothing without require_crl")
	}
	for _, v := range p.VMPLs {
		if v > 3 {
			bad("vmpls: %d is above 3", v)
		}
	}
	for _, l := range []struct {
		name string
		list []Hex
		size int
	}{{"family_ids", p.FamilyIDs, 16}, {"image_ids", p.ImageIDs, 16}, {"chip_ids", p.ChipIDs, 64}} {
		for _, h := range l.list {
			if len(h) != l.size {
				bad("%s: %s has %d bytes, not %d", l.name, h, len(h), l.size)
			}
		}
	}
	if n := len(p.ReportData); n != 0 && n != 64 {
		bad("report_data: has %d bytes, not 64", n)
	}
	for name, m := range map[string]map[report.Product]Components{"min_tcb": p.MinTCB, "min_committed_tcb": p.MinCommittedTCB, "min_launch_tcb": p.MinLaunchTCB} {
		for product, c := range m {
			if !slices.Contains(products, product) {
				bad("%s: %.32q is not one of %v", name, product, products)
			}
			if product != report.Turin && c.FMC != 0 {
				bad("%s: %s has no fmc", name, product)
			}
		}
	}
	for _, n := range []int{len(p.Products), len(p.Signers), len(p.CSPs), len(p.VMPLs), len(p.LaunchDigest), len(p.HostData), len(p.FamilyIDs),
		len(p.ImageIDs), len(p.ChipIDs), len(p.IDKeys), len(p.AuthorKeys)} {
		if n > maxEntries {
			bad("a list has %d entries, limit %d", n, maxEntries)
		}
	}
	return errors.Join(errs...)
}
