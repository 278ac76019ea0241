// Package dcap is the part of a policy that speaks of Intel quotes: what a
// verifier or a client accepts of a TDX or SGX quote that is genuine. In come
// a strictly parsed JSON document and a verification's result; out comes a
// list of checks, all of them, failed or not.
//
// What the document leaves out is as strict as it can be without knowing the
// workload: only UpToDate, no grace, no debugging, guests protected from
// unexpected page removal. The keys follow Intel's quote
// appraisal policy ("Intel SGX and TDX Quote Appraisal Engine"), with the
// differences that the fields' comments state.
package dcap

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/tcb"
)

// Limits of a policy document.
const (
	MaxSize    = 256 << 10
	maxEntries = 4096                // values in one list
	maxGrace   = 2 * 365 * 24 * 3600 // seconds
)

// Policy says which quotes are accepted. A TEE without a section is refused.
type Policy struct {
	TDX *TDX `json:"tdx,omitempty"`
	SGX *SGX `json:"sgx,omitempty"`
}

// Platform is what a policy says of the platform under a TD or an enclave.
type Platform struct {
	// AcceptedTCBStatus lists the accepted statuses; empty: UpToDate only.
	// Revoked and NotSupported cannot be accepted.
	AcceptedTCBStatus []tcb.Status `json:"accepted_tcb_status,omitempty"`
	// CollateralGraceSeconds is how long after its next update collateral is
	// still taken; 0: not at all. It has to be given to the verification, too:
	// see CollateralGrace.
	CollateralGraceSeconds int64 `json:"collateral_grace_seconds,omitempty"`
	// PlatformGraceSeconds bounds the age of the TCB date of a platform that is
	// OutOfDate or OutOfDateConfigurationNeeded; one of them must be accepted.
	// Absent: an accepted status is accepted at any age.
	PlatformGraceSeconds *int64 `json:"platform_grace_seconds,omitempty"`
	// MinEvaluation is the lowest tcbEvaluationDataNumber that collateral may
	// have.
	MinEvaluation int `json:"min_evaluation,omitempty"`
	// RejectedAdvisories are refused where they apply, in any case of letters.
	// Advisories that are not listed are reported and never a failure.
	RejectedAdvisories []string `json:"rejected_advisories,omitempty"`
	// AllowDebug accepts TDs and enclaves that their host can look into.
	AllowDebug bool `json:"allow_debug,omitempty"`
	// The platform's flags; absent: not looked at. With false a platform whose
	// certificate does not state the flag is refused as well (Intel's engine
	// accepts it).
	AllowDynamicPlatform *bool `json:"allow_dynamic_platform,omitempty"`
	AllowCachedKeys      *bool `json:"allow_cached_keys,omitempty"`
	AllowSMT             *bool `json:"allow_smt,omitempty"`
	// Allow lists of platforms; empty: any.
	FMSPCs            []Hex `json:"fmspcs,omitempty"`             // 6 bytes each
	PPIDs             []Hex `json:"ppids,omitempty"`              // 16 bytes each
	PlatformInstances []Hex `json:"platform_instances,omitempty"` // 16 bytes each
	// ReportData is the report data wanted; absent: any. Its length is 64
	// bytes.
	ReportData Hex `json:"report_data,omitempty"`
}

// TDX is what a policy says of TDs. Lists of values are allow lists; an empty
// one accepts any value, except where a comment says otherwise.
type TDX struct {
	Platform
	// AllowSEPTVE accepts TDs without SEPT_VE_DISABLE, whose host can take
	// pages away under the guest. Azure's TDs need it: their paravisor handles
	// it.
	AllowSEPTVE bool `json:"allow_sept_ve,omitempty"`
	// MRServiceTD lists the accepted service TDs, which can reach into the TD
	// they serve; all zero means none. Absent: none is accepted where the policy
	// names any other measurement, any where it names no measurement at all.
	MRServiceTD   []digest.SHA384 `json:"mrservicetd,omitempty"`
	Attributes    *Masked         `json:"attributes,omitempty"` // 8 bytes, in the quote's order
	XFAM          *Masked         `json:"xfam,omitempty"`       // 8 bytes, in the quote's order
	MRSEAM        []digest.SHA384 `json:"mrseam,omitempty"`
	MRTD          []digest.SHA384 `json:"mrtd,omitempty"`
	RTMR0         []digest.SHA384 `json:"rtmr0,omitempty"`
	RTMR1         []digest.SHA384 `json:"rtmr1,omitempty"`
	RTMR2         []digest.SHA384 `json:"rtmr2,omitempty"`
	RTMR3         []digest.SHA384 `json:"rtmr3,omitempty"`
	MRConfigID    []digest.SHA384 `json:"mrconfigid,omitempty"`
	MROwner       []digest.SHA384 `json:"mrowner,omitempty"`
	MROwnerConfig []digest.SHA384 `json:"mrownerconfig,omitempty"`
}

// SGX is what a policy says of enclaves. Lists of values are allow lists; an
// empty one accepts any value.
type SGX struct {
	Platform
	MREnclave  []digest.SHA256 `json:"mrenclave,omitempty"`
	MRSigner   []digest.SHA256 `json:"mrsigner,omitempty"`
	ISVProdIDs []uint16        `json:"isvprodid,omitempty"`
	MinISVSVN  uint16          `json:"min_isvsvn,omitempty"`
	Attributes *Masked         `json:"attributes,omitempty"` // 16 bytes, in the quote's order
}

// Masked wants value in the bits that mask selects. Both have the length of
// the field; value has no bit outside the mask.
type Masked struct {
	Value Hex `json:"value"`
	Mask  Hex `json:"mask"`
}

// Hex is a byte string that JSON carries as lower-case hex.
type Hex []byte

// String returns lower-case hex.
func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText returns lower-case hex.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads lower-case hex.
func (h *Hex) UnmarshalText(b []byte) error {
	s := string(b)
	if strings.ToLower(s) != s {
		return errors.New("hex is not lower-case")
	}
	out, err := hex.DecodeString(s)
	if err != nil {
		return fmt.Errorf("reading hex: %w", err)
	}
	*h = out
	return nil
}

// Default returns the policy that applies where none is given: the zero value
// of both sections.
func Default() *Policy { return &Policy{TDX: &TDX{}, SGX: &SGX{}} }

// Parse reads a policy from JSON; unknown and duplicate keys and values that
// make no sense are refused. The error is a fault with code dcap.policy.parse.
func Parse(doc []byte) (*Policy, error) {
	var p Policy
	err := jcs.Decode(doc, MaxSize, &p)
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "dcap.policy.parse",
			"the keys are described in docs/verify-quotes.md", "reading policy: %w", err)
	}
	return &p, nil
}

// Validate refuses policies that contradict themselves. Parse calls it; who
// embeds a Policy in another document has to.
func (p *Policy) Validate() error {
	var errs []error
	if p.TDX == nil && p.SGX == nil {
		errs = append(errs, errors.New("neither tdx nor sgx has a section"))
	}
	if t := p.TDX; t != nil {
		errs = append(errs, t.Platform.validate("tdx"), t.Attributes.validate("tdx.attributes", 8), t.XFAM.validate("tdx.xfam", 8))
		for _, l := range [][]digest.SHA384{t.MRServiceTD, t.MRSEAM, t.MRTD, t.RTMR0, t.RTMR1, t.RTMR2, t.RTMR3, t.MRConfigID, t.MROwner, t.MROwnerConfig} {
			errs = append(errs, tooMany("tdx", len(l)))
		}
	}
	if s := p.SGX; s != nil {
		errs = append(errs, s.Platform.validate("sgx"), s.Attributes.validate("sgx.attributes", 16),
			tooMany("sgx.mrenclave", len(s.MREnclave)), tooMany("sgx.mrsigner", len(s.MRSigner)), tooMany("sgx.isvprodid", len(s.ISVProdIDs)))
	}
	return errors.Join(errs...)
}

func (p *Platform) validate(at string) error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(at+"."+format, args...))
	}
	for _, s := range p.AcceptedTCBStatus {
		switch {
		case !s.Known():
			bad("accepted_tcb_status: %q is not a TCB status", s)
		case s == tcb.Revoked || s == tcb.NotSupported:
			bad("accepted_tcb_status: %s cannot be accepted", s)
		}
	}
	if p.CollateralGraceSeconds < 0 || p.CollateralGraceSeconds > maxGrace {
		bad("collateral_grace_seconds: %d is not between 0 and %d", p.CollateralGraceSeconds, maxGrace)
	}
	if g := p.PlatformGraceSeconds; g != nil {
		if *g < 0 || *g > 10*maxGrace {
			bad("platform_grace_seconds: %d is not between 0 and %d", *g, 10*maxGrace)
		}
		if !slices.ContainsFunc(p.AcceptedTCBStatus, outOfDate) {
			bad("platform_grace_seconds: no accepted status is an out-of-date one")
		}
	}
	if p.MinEvaluation < 0 {
		bad("min_evaluation: %d is negative", p.MinEvaluation)
	}
	for _, l := range []struct {
		name string
		list []Hex
		size int
	}{{"fmspcs", p.FMSPCs, 6}, {"ppids", p.PPIDs, 16}, {"platform_instances", p.PlatformInstances, 16}} {
		for _, h := range l.list {
			if len(h) != l.size {
				bad("%s: %s has %d bytes, not %d", l.name, h, len(h), l.size)
			}
		}
		errs = append(errs, tooMany(at+"."+l.name, len(l.list)))
	}
	if n := len(p.ReportData); n != 0 && n != 64 {
		bad("report_data: has %d bytes, not 64", n)
	}
	errs = append(errs, tooMany(at+".rejected_advisories", len(p.RejectedAdvisories)))
	return errors.Join(errs...)
}

func (m *Masked) validate(at string, size int) error {
	if m == nil {
		return nil
	}
	if len(m.Value) != size || len(m.Mask) != size {
		return fmt.Errorf("%s: value and mask must have %d bytes", at, size)
	}
	for i := range m.Value {
		if m.Value[i]&^m.Mask[i] != 0 {
			return fmt.Errorf("%s: value has bits that the mask does not select", at)
		}
	}
	return nil
}

func tooMany(at string, n int) error {
	if n > maxEntries {
		return fmt.Errorf("%s: %d entries, limit %d", at, n, maxEntries)
	}
	return nil
}

// CollateralGrace returns the grace for dcap.Options.CollateralGrace and
// collateral.Options.Grace.
func (p *Platform) CollateralGrace() time.Duration {
	return time.Duration(p.CollateralGraceSeconds) * time.Second
}

// accepts reports whether a status is on the list.
func (p *Platform) accepts(s tcb.Status) bool {
	if len(p.AcceptedTCBStatus) == 0 {
		return s == tcb.UpToDate
	}
	return slices.Contains(p.AcceptedTCBStatus, s)
}

func outOfDate(s tcb.Status) bool {
	return s == tcb.OutOfDate || s == tcb.OutOfDateConfigurationNeeded
}
