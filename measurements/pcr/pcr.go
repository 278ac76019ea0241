// Package pcr predicts what a TPM's SHA-256 bank holds after a direct boot
// (kernel, initrd and command line given to QEMU, OVMF's measured boot). In
// come files or their hashes and a firmware profile, out come register values
// and the component hashes that they are made from.
//
// Definitions: TCG PC Client Platform Firmware Profile 1.06, sections 3.3 and
// 10.4 (which PCR takes which event), and the Linux EFI stub, which measures
// load options and initrd into PCR 9.
package pcr

import (
	"cocoon/measurements/digest"
)

// CmdlineRule says what the kernel's load options look like when they are
// measured, given the command line that QEMU's -append takes.
type CmdlineRule string

// Rules that are known. Which one holds depends on the firmware's version.
const (
	CmdlineInitrdFirst CmdlineRule = "initrd-first" // "initrd=initrd " + cmdline: OVMF 2026.08
	CmdlineInitrdLast  CmdlineRule = "initrd-last"  // cmdline + " initrd=initrd": OVMF 2022.11
)

// ProvenanceRecorded marks values that were watched, not computed.
const ProvenanceRecorded = "recorded"

// Firmware is a firmware file and what was recorded of it. PCR 0 and 7 are
// constant for one firmware file but are not computed from it.
type Firmware struct {
	Name       string        `json:"name"`   // for people, for example "ovmf-2026.08"
	SHA256     digest.SHA256 `json:"sha256"` // of the firmware file
	PCR0       digest.SHA256 `json:"pcr0"`
	PCR7       digest.SHA256 `json:"pcr7"`
	Provenance string        `json:"provenance"` // ProvenanceRecorded
	Cmdline    CmdlineRule   `json:"cmdline_rule"`
}

// Components are the parts of a direct boot that registers are made from.
type Components struct {
	KernelAuthenticodeSHA256 digest.SHA256 `json:"kernel_authenticode_sha256"` // PE image hash, package pe
	InitrdSHA256             digest.SHA256 `json:"initrd_sha256"`
}

// Values are register values by number.
type Values map[int]digest.SHA256
