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
	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
)

// CmdlineRule says what the kernel's load options look like when they are
// measured, given the command line that QEMU's -append takes.
type CmdlineRule = boot.CmdlineRule

// Rules that hold at a direct boot. Which one depends on the firmware's
// version.
const (
	CmdlineInitrdFirst = boot.CmdlineInitrdFirst
	CmdlineInitrdLast  = boot.CmdlineInitrdLast
)

// Where the values of PCR 0 and 7 come from.
const (
	ProvenanceRecorded = "recorded" // watched at a boot
	ProvenanceComputed = "computed" // from the firmware file: see Compute
)

// Firmware is a firmware file and its PCR 0 and 7, which are constant for one
// file.
type Firmware struct {
	Name       string        `json:"name"`   // for people, for example "ovmf-2026.08"
	SHA256     digest.SHA256 `json:"sha256"` // of the firmware file
	PCR0       digest.SHA256 `json:"pcr0"`
	PCR7       digest.SHA256 `json:"pcr7"`
	Provenance string        `json:"provenance"` // ProvenanceRecorded or ProvenanceComputed
	Cmdline    CmdlineRule   `json:"cmdline_rule"`
}

// Components are the parts of a direct boot that registers are made from.
type Components struct {
	KernelAuthenticodeSHA256 digest.SHA256 `json:"kernel_authenticode_sha256"` // PE image hash, package pe
	InitrdSHA256             digest.SHA256 `json:"initrd_sha256"`
}

// Values are register values by number.
type Values map[int]digest.SHA256
