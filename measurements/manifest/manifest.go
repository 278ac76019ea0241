// Package manifest has the published measurements of one image: what it was
// built from, what every supported TEE reports for it, and what may run in it
// (DESIGN section 4). A manifest is the predicate of an in-toto Statement v1
// in a DSSE envelope; its identity everywhere is the SHA-256 of the DSSE
// payload bytes. In come signed bytes or build outputs, out come typed values
// that are consistent in themselves; whom to trust is the caller's policy.
package manifest

import (
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/pcr"
)

// Format is the version of the manifest that this package reads and writes.
const Format = 2

// PredicateType names the predicate of the in-toto statement.
const PredicateType = "urn:cocoon:manifest:2"

// Limits, in bytes and counts.
const (
	MaxPayload   = 1 << 20
	MaxEnvelope  = 2 << 20
	maxArtifacts = 256
	maxInputs    = 4096
	maxEntries   = 256
)

// Manifest is the predicate.
type Manifest struct {
	Format     int          `json:"format"`
	Image      Image        `json:"image"`
	Artifacts  []Artifact   `json:"artifacts"` // sorted by name; also the statement's subjects
	Inputs     []Artifact   `json:"inputs"`    // package lock, packages, toolchain; sorted by name
	Boot       Boot         `json:"boot"`
	TPM        *TPM         `json:"tpm,omitempty"`
	TDX        *TDX         `json:"tdx,omitempty"`
	SNP        *SNP         `json:"snp,omitempty"`
	Engines    []Engine     `json:"engines"`
	Config     ConfigRules  `json:"config"`
	Models     []Model      `json:"models"`
	GPUs       []GPUFloor   `json:"gpu_floors"`
	TCB        TCBFloor     `json:"tcb_floor"`
	Supersedes []Superseded `json:"supersedes"` // sorted by manifest
	Sunset     time.Time    `json:"sunset"`     // the image is refused from then on; whole seconds, UTC
}

// Image names the image. Version grows with each release and never repeats.
type Image struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	Profile string `json:"profile"` // what it is built for: "cpu", "nvidia", "debug"
	Debug   bool   `json:"debug"`   // made to be looked into: a production policy refuses it

	SourceDate time.Time `json:"source_date"` // SOURCE_DATE_EPOCH of the build; whole seconds, UTC
}

// Superseded is an earlier manifest of the same image, and until when it is
// still accepted beside this one. Whoever trusts this manifest holds the
// earlier one to that date, or to its own sunset if that comes first.
type Superseded struct {
	Manifest   digest.SHA256 `json:"manifest"`    // SHA-256 of the earlier payload
	GraceUntil time.Time     `json:"grace_until"` // whole seconds, UTC
}

// Artifact is one file, by hash and size in bytes.
type Artifact struct {
	Name   string        `json:"name"`
	SHA256 digest.SHA256 `json:"sha256"`
	Size   int64         `json:"size"`
}

// Boot is what the host must hand to the firmware.
type Boot struct {
	Cmdline    string        `json:"cmdline"`     // exactly what is given as -append
	RootVerity digest.SHA256 `json:"root_verity"` // dm-verity root of the root file system; part of Cmdline
}

// TPM is what a TPM reports for the image after direct boot, per firmware,
// and the components that it is computed from.
type TPM struct {
	Components pcr.Components `json:"components"`
	Firmwares  []TPMFirmware  `json:"firmwares"`
}

// TPMFirmware is one accepted firmware with the registers that follow.
type TPMFirmware struct {
	pcr.Firmware
	CmdlineSHA256 digest.SHA256 `json:"cmdline_sha256"` // of the command line as this firmware measures it
	PCRs          pcr.Values    `json:"pcrs"`           // SHA-256 bank; PCR 1 is reported only, PCR 15 follows from the config
}

// Engine is an inference engine that may run, and with which arguments.
type Engine struct {
	Kind        string        `json:"kind"`
	ImageDigest digest.SHA256 `json:"image_digest"` // dm-verity root of the engine's pack
	Args        []ArgRule     `json:"args"`
}

// Kinds of argument values.
const (
	ArgNone = "none" // a flag without a value
	ArgInt  = "int"  // a decimal integer from Min to Max
	ArgEnum = "enum" // one of Values
)

// ArgRule allows one command-line flag of an engine, at most once.
type ArgRule struct {
	Flag   string   `json:"flag"`
	Kind   string   `json:"kind"`
	Min    int64    `json:"min,omitempty"`
	Max    int64    `json:"max,omitempty"`
	Values []string `json:"values,omitempty"`
}

// ConfigRules constrain the fields of the guest's config.
type ConfigRules struct {
	Roles      []string `json:"roles"`
	GPUModes   []string `json:"gpu_modes"`
	NetworkIDs []int32  `json:"network_ids"` // TON global ids, 0: without a ledger
	Registries []string `json:"registries"`  // TON addresses, "": without a ledger
	// InitBlocks are the key blocks that a config may have the registry's state
	// proven from; none where it is left out.
	InitBlocks []MasterBlock `json:"init_blocks,omitempty"`
	// Sealers are the SGX enclaves that a config may trust with a TD's sealed
	// keys; none where it is left out.
	Sealers []SealingEnclave `json:"sealers,omitempty"`
}

// MasterBlock is a block of TON's masterchain.
type MasterBlock struct {
	Seqno    uint32        `json:"seqno"`
	RootHash digest.SHA256 `json:"root_hash"`
	FileHash digest.SHA256 `json:"file_hash"`
}

// SealingEnclave is an SGX enclave by signer and product, from a version on.
type SealingEnclave struct {
	Signer  digest.SHA256 `json:"signer"` // MRSIGNER
	Product uint16        `json:"product"`
	MinSVN  uint16        `json:"min_svn"` // at least 1
}

// Model is a model that may be served. It narrows the registry's list.
type Model struct {
	Name       string        `json:"name"`
	VerityRoot digest.SHA256 `json:"verity_root"`
}

// GPUFloor is the oldest accepted driver and VBIOS of a GPU architecture.
type GPUFloor struct {
	Arch   string `json:"arch"` // for example "hopper"
	Driver string `json:"driver"`
	VBIOS  string `json:"vbios"`
}

// TCBFloor is the oldest TCB that may run the image.
type TCBFloor struct {
	TDXEvaluation int `json:"tdx_evaluation,omitempty"` // tcbEvaluationDataNumber
}
