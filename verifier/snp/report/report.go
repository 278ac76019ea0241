// Package report reads SEV-SNP attestation reports, versions 2 to 5, and the
// certificate table that follows the report in an extended one: raw bytes come
// in, values come out. It checks shape, not signatures.
//
// Definitions: AMD 56860, SEV Secure Nested Paging Firmware ABI Specification
// (ATTESTATION_REPORT, TCB_VERSION, guest policy, PLATFORM_INFO); AMD 56421,
// GHCB Standardization (certificate table). Numbers are little-endian.
//
// # Reserved bits
//
// Every bit before the signature is signed as it stands, and the signature is
// verified over those raw bytes, so that none of them can be changed. Reserved
// ones are refused where they are not zero all the same: firmware that sets
// them says something that this reader does not understand. In the 512 bytes
// of the signature, which are not signed, the unused ones must be zero, so
// that they cannot carry anything either.
package report

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/abi"
)

// Sizes in bytes.
const (
	Size       = abi.ReportSize // of a report: 1184
	SignedSize = 0x2A0          // of its signed part
)

// ErrMalformed is wrapped by every error of this package.
var ErrMalformed = errors.New("not an SEV-SNP attestation report as AMD 56860 has it")

// Signer is the kind of key that signed a report.
type Signer string

// Kinds of keys.
const (
	VCEK Signer = "VCEK" // versioned chip endorsement key
	VLEK Signer = "VLEK" // versioned loaded endorsement key, of a cloud provider
	None Signer = "none" // the report is not signed
)

// VMPLHost is the VMPL of a report that the host asked for, not the guest
// (AMD 56860, SNP_HV_REPORT_REQ).
const VMPLHost = 0xFFFFFFFF

// Report is a parsed report. It is a value and aliases nothing.
type Report struct {
	Version         uint32
	GuestSVN        uint32
	Policy          Policy
	FamilyID        [16]byte
	ImageID         [16]byte
	VMPL            uint32 // 0 to 3, or VMPLHost
	PlatformInfo    PlatformInfo
	Signer          Signer
	AuthorKey       bool // AUTHOR_KEY_EN: AuthorKeyDigest is that of a key
	MaskChipKey     bool // the VCEK is not used on this chip
	ReportData      [64]byte
	LaunchDigest    [48]byte // MEASUREMENT
	HostData        [32]byte
	IDKeyDigest     [48]byte
	AuthorKeyDigest [48]byte
	ReportID        [32]byte
	ReportIDMA      [32]byte // of the migration agent; all ones: none
	ChipID          [64]byte // all zero where the host masks it

	Product                 Product // empty in version 2, which does not say
	Family, Model, Stepping uint8   // CPUID, from version 3

	CurrentTCB, ReportedTCB, CommittedTCB, LaunchTCB TCB

	Current, Committed Firmware

	// Vectors of mitigations that were in force, from version 5.
	LaunchMitigations, CurrentMitigations Vector

	r, s [48]byte // of the signature, big-endian
}

// Firmware is the version of the SNP firmware.
type Firmware struct {
	Major uint8 `json:"major"`
	Minor uint8 `json:"minor"`
	Build uint8 `json:"build"`
}

// Compare returns -1, 0 or 1; builds are numbered across versions but the API
// version decides first.
func (f Firmware) Compare(g Firmware) int {
	a := int(f.Major)<<16 | int(f.Minor)<<8 | int(f.Build)
	b := int(g.Major)<<16 | int(g.Minor)<<8 | int(g.Build)
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// String returns major.minor.build.
func (f Firmware) String() string { return fmt.Sprintf("%d.%d.%d", f.Major, f.Minor, f.Build) }

// Signature returns r and s of the signature, big-endian.
func (r *Report) Signature() (rr, ss *[48]byte) { return &r.r, &r.s }

// Parse reads a report of exactly Size bytes.
func Parse(raw []byte) (*Report, error) {
	if len(raw) != Size {
		return nil, fmt.Errorf("%d bytes, want %d: %w", len(raw), Size, ErrMalformed)
	}
	le := binary.LittleEndian
	r := &Report{Version: le.Uint32(raw), GuestSVN: le.Uint32(raw[4:]), Policy: Policy(le.Uint64(raw[8:])),
		VMPL: le.Uint32(raw[0x30:]), PlatformInfo: PlatformInfo(le.Uint64(raw[0x40:]))}
	if r.Version < 2 || r.Version > 5 {
		return nil, fmt.Errorf("version %d, want 2 to 5: %w", r.Version, ErrMalformed)
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.Policy&policyReserved != policyReservedOne {
		bad("guest policy %#x has reserved bits", uint64(r.Policy))
	}
	if r.VMPL > 3 && r.VMPL != VMPLHost {
		bad("VMPL is %d", r.VMPL)
	}
	if a := le.Uint32(raw[0x34:]); a != abi.SignEcdsaP384Sha384 {
		bad("signature algorithm is %d, not ECDSA P-384 with SHA-384", a)
	}
	if x := r.PlatformInfo & platformReserved; x != 0 {
		bad("platform info has the reserved bits %#x", uint64(x))
	}
	r.flags(le.Uint32(raw[0x48:]), bad)
	copy(r.FamilyID[:], raw[0x10:])
	copy(r.ImageID[:], raw[0x20:])
	copy(r.ReportData[:], raw[0x50:])
	copy(r.LaunchDigest[:], raw[0x90:])
	copy(r.HostData[:], raw[0xC0:])
	copy(r.IDKeyDigest[:], raw[0xE0:])
	copy(r.AuthorKeyDigest[:], raw[0x110:])
	copy(r.ReportID[:], raw[0x140:])
	copy(r.ReportIDMA[:], raw[0x160:])
	copy(r.ChipID[:], raw[0x1A0:])
	r.cpu(raw, bad)
	for _, t := range []struct {
		to *TCB
		at int
	}{{&r.CurrentTCB, 0x38}, {&r.ReportedTCB, 0x180}, {&r.CommittedTCB, 0x1E0}, {&r.LaunchTCB, 0x1F0}} {
		tcb, ok := DecodeTCB([8]byte(raw[t.at:]), r.Product)
		if !ok {
			bad("TCB version at %#x has reserved bytes", t.at)
		}
		*t.to = tcb
	}
	r.Current = Firmware{Build: raw[0x1E8], Minor: raw[0x1E9], Major: raw[0x1EA]}
	r.Committed = Firmware{Build: raw[0x1EC], Minor: raw[0x1ED], Major: raw[0x1EE]}
	r.LaunchMitigations, r.CurrentMitigations = Vector(le.Uint64(raw[0x1F8:])), Vector(le.Uint64(raw[0x200:]))
	for _, z := range r.zeroes() {
		if !isZero(raw[z[0]:z[1]]) {
			bad("reserved bytes %#x to %#x are not zero", z[0], z[1])
		}
	}
	for i := range 48 {
		r.r[i] = raw[0x2A0+47-i]
		r.s[i] = raw[0x2E8+47-i]
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %w", errors.Join(errs...), ErrMalformed)
	}
	return r, nil
}

// flags reads the word at 48h: AUTHOR_KEY_EN, MASK_CHIP_KEY and SIGNING_KEY.
func (r *Report) flags(w uint32, bad func(string, ...any)) {
	r.AuthorKey, r.MaskChipKey = w&1 != 0, w&2 != 0
	switch key := w >> 2 & 7; key {
	case 0:
		r.Signer = VCEK
	case 1:
		r.Signer = VLEK
	case 7:
		r.Signer = None
	default:
		bad("signing key is of the reserved kind %d", key)
	}
	if w>>5 != 0 {
		bad("flags %#x have reserved bits", w)
	}
}

// cpu reads the CPUID fields, which come with version 3.
func (r *Report) cpu(raw []byte, bad func(string, ...any)) {
	if r.Version < 3 {
		return
	}
	r.Family, r.Model, r.Stepping = raw[0x188], raw[0x189], raw[0x18A]
	p, ok := ProductOf(r.Family, r.Model)
	if !ok {
		bad("CPU family %#x model %#x is of no known product", r.Family, r.Model)
	}
	r.Product = p
}

// zeroes are the ranges that must be zero in a report of this version.
func (r *Report) zeroes() [][2]int {
	z := [][2]int{{0x4C, 0x50}, {0x18B, 0x1A0}, {0x1EB, 0x1EC}, {0x1EF, 0x1F0}, {0x208, SignedSize},
		// r and s have 72 bytes each, of which 48 count.
		{0x2A0 + 48, 0x2A0 + 72}, {0x2E8 + 48, 0x2E8 + 72}, {0x330, Size}}
	if r.Version < 3 {
		z = append(z, [2]int{0x188, 0x18B})
	}
	if r.Version < 5 {
		z = append(z, [2]int{0x1F8, 0x208})
	}
	return z
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
