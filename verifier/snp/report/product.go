package report

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// Product is a family of EPYC processors.
type Product string

// Products. Siena stands for the processors of family 19h, models A0h to AFh,
// Bergamo and Siena, which CPUID does not tell apart.
const (
	Milan Product = "Milan"
	Genoa Product = "Genoa"
	Siena Product = "Siena"
	Turin Product = "Turin"
)

// ProductOf returns the product of a CPU by its family and model as CPUID has
// them, extended parts included (AMD 57230, Determining the Product Name).
func ProductOf(family, model uint8) (Product, bool) {
	switch {
	case family == 0x19 && model <= 0x0F:
		return Milan, true
	case family == 0x19 && model >= 0x10 && model <= 0x1F:
		return Genoa, true
	case family == 0x19 && model >= 0xA0 && model <= 0xAF:
		return Siena, true
	case family == 0x1A && model <= 0x1F:
		return Turin, true
	}
	return "", false
}

// Line returns the product whose keys sign for this one: Bergamo and Siena
// have certificates of the Genoa line.
func (p Product) Line() Product {
	if p == Siena {
		return Genoa
	}
	return p
}

// TCB is a TCB_VERSION: the security version numbers of the components that a
// report vouches for.
type TCB struct {
	FMC        uint8    `json:"fmc,omitempty"` // Turin only
	Bootloader uint8    `json:"bootloader"`
	TEE        uint8    `json:"tee"`
	SNP        uint8    `json:"snp"`
	Microcode  uint8    `json:"microcode"`
	Raw        TCBBytes `json:"raw"` // as in the report
}

// TCBBytes are the bytes of a TCB_VERSION, in the report's order.
type TCBBytes [8]byte

// String returns lower-case hex.
func (b TCBBytes) String() string { return hex.EncodeToString(b[:]) }

// MarshalText returns lower-case hex.
func (b TCBBytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads 16 lower-case hex digits.
func (b *TCBBytes) UnmarshalText(text []byte) error {
	if len(text) != 16 || strings.ToLower(string(text)) != string(text) {
		return fmt.Errorf("reading TCB version %.32q: not 16 lower-case hex digits", text)
	}
	if _, err := hex.Decode(b[:], text); err != nil {
		return fmt.Errorf("reading TCB version: %w", err)
	}
	return nil
}

// DecodeTCB reads a TCB_VERSION in the product's layout: from Turin on it
// starts with the FMC's number and has SNP at 3 (AMD 56860, TCB_VERSION). It
// reports whether the reserved bytes are zero.
func DecodeTCB(b [8]byte, p Product) (TCB, bool) {
	if p == Turin {
		return TCB{FMC: b[0], Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7], Raw: b}, isZero(b[4:7])
	}
	return TCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7], Raw: b}, isZero(b[2:6])
}

// AtLeast reports whether every component is at least that of min. Versions
// are not ordered as numbers: each component counts by itself.
func (t TCB) AtLeast(min TCB) bool {
	return t.FMC >= min.FMC && t.Bootloader >= min.Bootloader && t.TEE >= min.TEE && t.SNP >= min.SNP && t.Microcode >= min.Microcode
}

// String names the components.
func (t TCB) String() string {
	s := fmt.Sprintf("bootloader %d, TEE %d, SNP %d, microcode %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if t.FMC != 0 {
		s = fmt.Sprintf("FMC %d, ", t.FMC) + s
	}
	return s
}

// Policy is the guest policy that the guest was launched under.
type Policy uint64

// Bits of a Policy; the lowest two bytes are the least ABI version, minor then
// major (AMD 56860, Guest Policy).
const (
	PolicySMT              Policy = 1 << 16 // simultaneous multithreading is allowed
	PolicyMigrationAgent   Policy = 1 << 18 // association with a migration agent is allowed
	PolicyDebug            Policy = 1 << 19 // the host may read and write the guest's memory
	PolicySingleSocket     Policy = 1 << 20 // the guest runs on one socket only
	PolicyCXL              Policy = 1 << 21 // CXL devices and memory are allowed
	PolicyAES256XTS        Policy = 1 << 22 // memory encryption must be AES-256 XTS
	PolicyRAPLDisabled     Policy = 1 << 23 // RAPL must be disabled
	PolicyCiphertextHiding Policy = 1 << 24 // ciphertext hiding must be on
	PolicyPageSwapDisabled Policy = 1 << 25 // the host may not move or swap pages

	policyReservedOne Policy = 1 << 17 // reserved, must be one
	policyReserved           = ^(Policy(1)<<26 - 1) | policyReservedOne
)

// ABI returns the least major and minor version of the firmware's ABI.
func (p Policy) ABI() (major, minor uint8) {
	return uint8(p >> 8), uint8(p)
}

// Has reports whether a bit is set.
func (p Policy) Has(bit Policy) bool { return p&bit != 0 }

// PlatformInfo is what a report says of the platform's configuration.
type PlatformInfo uint64

// Bits of a PlatformInfo (AMD 56860, PLATFORM_INFO).
const (
	PlatformSMT              PlatformInfo = 1 << 0 // SMT is enabled
	PlatformTSME             PlatformInfo = 1 << 1 // transparent memory encryption is enabled
	PlatformECC              PlatformInfo = 1 << 2 // memory has error correction
	PlatformRAPLDisabled     PlatformInfo = 1 << 3 // RAPL is disabled
	PlatformCiphertextHiding PlatformInfo = 1 << 4 // ciphertext hiding is on for DRAM
	PlatformAliasCheck       PlatformInfo = 1 << 5 // no memory aliases were found since reset (AMD-SB-3015)
	PlatformTIO              PlatformInfo = 1 << 7 // SEV-TIO is enabled

	// Bit 6 has no name in the specification, but Turin's firmware sets it: it
	// is let through, and shown with the other bits as they stand.
	platformReserved = ^(PlatformInfo(1)<<8 - 1)
)

// Has reports whether a bit is set.
func (p PlatformInfo) Has(bit PlatformInfo) bool { return p&bit != 0 }

// Vector is a set of bits that JSON carries as 16 lower-case hex digits, the
// most significant first.
type Vector uint64

// String returns 16 lower-case hex digits.
func (v Vector) String() string { return fmt.Sprintf("%016x", uint64(v)) }

// MarshalText returns 16 lower-case hex digits.
func (v Vector) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads 16 lower-case hex digits.
func (v *Vector) UnmarshalText(text []byte) error {
	var b TCBBytes
	if err := b.UnmarshalText(text); err != nil {
		return fmt.Errorf("reading vector %.32q: not 16 lower-case hex digits", text)
	}
	*v = Vector(binary.BigEndian.Uint64(b[:]))
	return nil
}
